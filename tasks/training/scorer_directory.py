"""What a training run publishes: scorer, bank, calibration, peers, the images it saw, and a card that tells how it went."""

import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save

from mdmf_core.banks.assembly import RealImage, calibrate, with_members
from mdmf_core.banks.bank import Bank, BankMember, Slice
from mdmf_core.banks.calibration import CARD as CALIBRATION
from mdmf_core.digests import digest_of
from mdmf_core.errors import ArtifactError
from mdmf_core.mmd.coreset import compress, herding
from mdmf_core.mmd.kernels import median_heuristic
from mdmf_core.scoring.scorer import Scorer, Statistic
from mdmf_core.scoring.scorer_files import SEEN, scorer_files, with_signature
from mdmf_core.training.baselines import PEERS, train_probe, train_vote
from mdmf_core.training.evaluation import Figure, markdown, per_generator, shuffled_labels, table
from mdmf_core.training.model_choice import Arm, Choice, ImageTokens, bank_tokens, signatures
from mdmf_core.training.pfs_training import Fitted
from mdmf_core.training.recipe import GENERATED, REGENERATED, Recipe
from tasks.storage.publishing import publish
from tasks.training.dataset import HEADLINE, TrainingData, TrainSettings
from tasks.training.token_cache import ImageFacts

DOMAIN = "photo"  # a scorer's own bank has one slice; banks with several are built by `mdmf bank build`


@dataclass(frozen=True)
class Trained:
    """What a training run made, small enough to return."""

    directory: str
    scorer_id: str
    objective: str
    statistic: str
    images: int
    excluded: int
    auroc_mean: float  # over held-out generators
    auroc_pooled: float  # all held-out generated against all held-out real images
    table: str  # Markdown


@dataclass(frozen=True)
class HeldOut:
    """Scores of every image by a model that saw neither its group nor chose on it, in units of that model's real images."""

    by_condition: Mapping[str, np.ndarray]
    by_seed: Mapping[int, np.ndarray]  # headline condition
    by_peer: Mapping[str, np.ndarray]  # headline condition
    line_passed: Mapping[str, float]  # real source -> share above its model's 5 % line

    def tables(self, images: ImageTokens) -> dict[str, list[Figure]]:
        named = {f"mdmf, {name}": values for name, values in self.by_condition.items()} | dict(self.by_peer)
        return {
            name: table(v, images.generated.tolist(), images.groups.tolist(), images.domains.tolist())
            for name, v in named.items()
        }


def training_record(
    settings: TrainSettings,
    data: TrainingData,
    arms: Sequence[Sequence[Arm]],
    validation: Mapping[str, float],
    nested: Sequence[Choice],
    choice: Choice,
    fitted: Fitted,
    recipe: Recipe,
    held_out: HeldOut,
) -> dict[str, Any]:
    """The card's account of the training run."""
    images = data.images[HEADLINE]
    tables = held_out.tables(images)
    by_seed = [
        float(
            np.mean(
                list(
                    per_generator(table(v, images.generated.tolist(), images.groups.tolist(), images.domains.tolist())).values()
                )
            )
        )
        for v in held_out.by_seed.values()
    ]
    groups = Counter(("generated" if f.generated else "real", f.group) for f in data.facts)
    folds = {(("generated" if f.generated else "real"), f.group): int(n) for f, n in zip(data.facts, data.fold, strict=True)}
    return {
        "code_version": version("mdmf"),
        "data": {
            "digest": digest_of({"images": sorted([f.sha256, f.generated, f.group] for f in data.facts)}),
            "images": len(data.facts),
            "excluded": data.excluded,
            "groups": [
                {"label": label, "group": group, "images": count, "fold": folds[label, group]}
                for (label, group), count in sorted(groups.items())
            ],
        },
        "settings": settings.model_dump(exclude={"source", "out", "cache", "device", "storage_block"}),
        "recipe": asdict(recipe),
        "validation_auroc": {name: round(value, 4) for name, value in sorted(validation.items())},
        "chosen": asdict(choice),
        "chosen_by_fold": [asdict(found) for found in nested],
        "curves": [
            {"fold": number, "objective": arm.recipe.objective, "seed": arm.seed, "steps": arm.fitted.curve}
            for number, found in enumerate(arms)
            for arm in found
            if arm.recipe.objective == choice.objective
        ],
        "final_sigma": fitted.sigma,
        "held_out": {
            "what": "every image scored by a model that saw no image of its group; choices made on other held-out groups",
            "auroc_mean_by_seed": [round(value, 4) for value in by_seed],
            "real_flagged_at_5_percent": {name: round(value, 4) for name, value in sorted(held_out.line_passed.items())},
            "control_shuffled_labels": asdict(shuffled_labels(held_out.by_condition[HEADLINE], images.generated.tolist())),
            "tables": {name: [_rounded(asdict(figure)) for figure in figures] for name, figures in tables.items()},
        },
    }


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}


def publish_scorer(
    settings: TrainSettings,
    data: TrainingData,
    raw: Scorer,
    fitted: Fitted,
    statistic: Statistic,
    record: dict[str, Any],
    choice: Choice,
    held_out: HeldOut,
) -> Trained:
    name = os.path.basename(settings.out.rstrip("/"))
    scorer = with_signature(raw, name, fitted.signature, statistic, fitted.sigma)
    seen = pa.table(
        {
            "sha256": [f.sha256 for f in data.facts],
            "label": ["generated" if f.generated else "real" for f in data.facts],
            "group": [f.group for f in data.facts],
            "fold": data.fold,
            "role": data.role,
        }
    )
    buffer = io.BytesIO()
    pq.write_table(seen, buffer, compression="zstd")
    contents = {f"bank/{key}": value for key, value in own_bank(name, scorer, data, settings.points).items()}
    contents |= {SEEN: buffer.getvalue(), PEERS: _peer_weights(data)} | scorer_files(scorer, settings.backbone, record)
    publish(settings.out, contents, settings.storage_block)
    figures = held_out.tables(data.images[HEADLINE])[f"mdmf, {HEADLINE}"]
    pooled = next(figure for figure in figures if figure.name == "all generators")
    mean = float(np.mean(list(per_generator(figures).values())))
    return Trained(
        settings.out, scorer.scorer_id, choice.objective, choice.statistic, len(data.facts), data.excluded, mean, pooled.auroc,
        markdown(figures),
    )  # fmt: skip


def own_bank(name: str, scorer: Scorer, data: TrainingData, points: int) -> dict[str, bytes]:
    """The files of the bank that lies in a scorer's directory: one slice, as many patches of every source, and its calibration.

    Raises:
        ArtifactError: a scorer without a bandwidth of its own.
    """
    sigma = scorer.sigma
    if sigma is None:
        raise ArtifactError(f"scorer {scorer.name} has no bandwidth")
    stored = data.images["stored"]
    in_bank = (data.role == "bank") & ~stored.generated
    vectors = signatures(scorer.signature, bank_tokens(stored.subset(in_bank), 20_000))
    images = [
        RealImage(_member(f), f.shape, stored.embeddings[at], partial(signatures, scorer.signature, stored.tokens[at]))
        for at, f in enumerate(data.facts)
    ]
    part = Slice.of(DOMAIN, compress([vectors], points, sigma), int(in_bank.sum()), sigma)
    bare = Bank(name, scorer.scorer_id, (part,), sigma, ())
    bank = with_members(bare, scorer, [images[at] for at in np.flatnonzero(in_bank).tolist()])
    used = np.flatnonzero((data.role == "calibrate") & ~stored.generated).tolist()
    calibration = calibrate(scorer, bank, [images[at] for at in used])
    return {CALIBRATION: calibration.file()} | bank.files()


def _member(facts: ImageFacts) -> BankMember:
    return BankMember(
        facts.group, os.path.basename(facts.url), facts.sha256, DOMAIN, None, facts.format, facts.width, facts.height,
        facts.jpeg_quality,
    )  # fmt: skip


def _peer_weights(data: TrainingData) -> bytes:
    """The peers on the same training images, for `evaluate`; plain MMD is a bank of raw tokens."""
    used = np.flatnonzero((data.row_role == "pfs") & (data.rows.kinds != REGENERATED))
    rows = data.rows.subset(used)
    generated = rows.kinds == GENERATED
    raw = bank_tokens(data.images["stored"].subset((data.role == "bank") & ~data.images["stored"].generated)).float()
    sigma = median_heuristic(raw)
    tensors = train_probe(data.row_embeddings[used], generated, rows.groups).tensors("probe")
    tensors |= train_vote(rows.tokens, generated, rows.groups).tensors("vote")
    tensors |= {"plain.points": raw[herding(raw, min(500, len(raw)), sigma)[0]], "plain.sigma": torch.tensor([sigma])}
    return save(tensors)
