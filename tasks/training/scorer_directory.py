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

from mdmf_core.banks.assembly import LEAST_OF_SEVERAL, RealImage, assemble, calibrate
from mdmf_core.banks.bank import BankMember
from mdmf_core.banks.calibration import CARD as CALIBRATION
from mdmf_core.digests import digest_of
from mdmf_core.mmd.coreset import herding
from mdmf_core.mmd.kernels import median_heuristic
from mdmf_core.scoring.scorer import Scorer, Statistic
from mdmf_core.scoring.scorer_files import SEEN, scorer_files, with_signature
from mdmf_core.training.baselines import PEERS, Peers, mean_tokens
from mdmf_core.training.evaluation import Figure, markdown, per_generator, shuffled_labels, table
from mdmf_core.training.labelled import CALIBRATE
from mdmf_core.training.matched import matched_pairs
from mdmf_core.training.model_choice import Arm, Choice, ImageTokens, bank_tokens, signatures
from mdmf_core.training.pfs_training import Fitted
from mdmf_core.training.recipe import Recipe
from tasks.storage.publishing import publish
from tasks.training.dataset import TrainingData, TrainSettings
from tasks.training.token_cache import ImageFacts


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

    scores: Mapping[str, np.ndarray]  # of "mdmf" and its peers, under the neutral protocol
    flagged: Mapping[str, float]  # real source -> share above its model's 5 % line

    def tables(self, images: ImageTokens) -> dict[str, list[Figure]]:
        return {
            name: table(values, images.generated.tolist(), images.groups.tolist(), images.domains.tolist())
            for name, values in self.scores.items()
        }


def training_record(
    settings: TrainSettings,
    data: TrainingData,
    arms: Sequence[Sequence[Arm]],
    figures: Mapping[str, float],
    nested: Sequence[Choice],
    choice: Choice,
    fitted: Fitted,
    recipe: Recipe,
    held_out: HeldOut,
    tables: Mapping[str, Sequence[Figure]],
) -> dict[str, Any]:
    """The card's account of the training run."""
    images = data.images
    matched = matched_pairs(held_out.scores, images.generated, images.pairs.tolist())
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
        "auroc_by_choice": {name: round(value, 4) for name, value in sorted(figures.items())},
        "chosen": asdict(choice),
        "chosen_by_fold": [asdict(found) for found in nested],
        "curves": [
            {"fold": number, "loss": arm.fitted.curves}
            for number, found in enumerate(arms)
            for arm in found
            if arm.recipe.objective == choice.objective
        ],
        "final_sigma": fitted.sigma,
        "held_out": {
            "what": "every image scored by a model that saw no image of its group; choices made on other held-out groups",
            "real_flagged_at_5_percent": {name: round(value, 4) for name, value in sorted(held_out.flagged.items())},
            "content_matched": [_rounded(asdict(figure)) for figure in matched],
            "control_shuffled_labels": asdict(shuffled_labels(held_out.scores["mdmf"], images.generated.tolist())),
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
    figures: Sequence[Figure],
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
    pooled = next(figure for figure in figures if figure.name == "all generators")
    mean = float(np.mean(list(per_generator(figures).values())))
    return Trained(
        settings.out, scorer.scorer_id, choice.objective, choice.statistic, len(data.facts), data.excluded, mean, pooled.auroc,
        markdown(figures),
    )  # fmt: skip


def own_bank(name: str, scorer: Scorer, data: TrainingData, points: int) -> dict[str, bytes]:
    """The files of the bank that lies in a scorer's directory: one slice a domain under the neutral protocol, calibrated.

    A domain with too few images to calibrate joins the largest one.
    """
    neutral = data.images
    means = mean_tokens(neutral.tokens)
    domains = Counter(f.domain for f, role in zip(data.facts, data.role, strict=True) if role == CALIBRATE)
    (largest, _), *_ = domains.most_common(1)

    def images(role: str) -> list[RealImage]:
        found = []
        for at in np.flatnonzero((data.role == role) & ~neutral.generated).tolist():
            facts = data.facts[at]
            member = _member(facts, facts.domain if domains[facts.domain] >= LEAST_OF_SEVERAL else largest)
            found.append(RealImage(member, facts.shape, means[at], partial(signatures, scorer.signature, neutral.tokens[at])))
        return found

    bank = assemble(scorer, images("bank"), name, points, "herding")
    return {CALIBRATION: calibrate(scorer, bank, images(CALIBRATE)).file()} | bank.files()


def _member(facts: ImageFacts, domain: str) -> BankMember:
    return BankMember(
        facts.group, os.path.basename(facts.url), facts.sha256, domain, None, facts.format, facts.width, facts.height,
        facts.jpeg_quality,
    )  # fmt: skip


def _peer_weights(data: TrainingData) -> bytes:
    """The peers on the same training images, for `evaluate`; plain MMD is a bank of raw tokens."""
    raw = bank_tokens(data.images.subset(data.role == "bank")).float()
    sigma = median_heuristic(raw)
    tensors = Peers.train(data.rows.subset(data.row_trains), data.row_embeddings).tensors()
    tensors |= {"plain.points": raw[herding(raw, min(500, len(raw)), sigma)[0]], "plain.sigma": torch.tensor([sigma])}
    return save(tensors)
