"""Measuring a scorer on labelled images: held-out groups apart, controls, peers, robustness."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import BaseModel
from safetensors.torch import load as load_tensors

from mdmf_core.errors import ArtifactError, MdmfError
from mdmf_core.records import ImageShape
from mdmf_core.scoring.scorer import ImageScore, Signatures
from mdmf_core.scoring.scorer_files import SEEN
from mdmf_core.training.baselines import PEERS, LinearModel, vote
from mdmf_core.training.evaluation import Control, Figure, markdown, no_overlap, same_scores, shuffled_labels, table
from mdmf_core.training.figures import auroc, tpr_at_fpr
from mdmf_core.training.labelled import MIN_IMAGES, LabelledImage, require_classes
from mdmf_core.training.model_choice import ImageTokens, image_terms
from tasks.scoring.loading import load_setup, scorer_file
from tasks.scoring.scoring_setup import ScoringSetup
from tasks.storage.publishing import publish
from tasks.training.evaluation_page import evaluation_page
from tasks.training.labelled_sets import list_labelled
from tasks.training.plots import robustness_plot, table_plot
from tasks.training.token_cache import TokenCache, chunked, image_tokens

HEADLINE = "jpeg-90"
CONTROL = "png"


class EvaluateSettings(BaseModel):
    """What an evaluation does."""

    source: str
    out: str
    scorer: str
    bank: str
    part: str
    grid: tuple[str, ...]
    max_per_group: int | None
    drop_seen: bool
    cache: str
    device: str
    storage_block: str | None

    def conditions(self) -> list[str]:
        """The headline, what the control needs, and the robustness grid."""
        return list(dict.fromkeys([HEADLINE, "stored", CONTROL, *self.grid]))

    def images(self) -> list[LabelledImage]:
        """The labelled set, in order."""
        return list_labelled(self.source, self.part, self.max_per_group, self.storage_block)

    def setup(self) -> ScoringSetup:
        return load_setup(self.scorer, self.bank, self.device, 32, 0, self.storage_block)

    def token_cache(self) -> TokenCache:
        return TokenCache(self.cache, self.setup().scorer, 0, [])


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found, small enough to return."""

    directory: str
    images: int
    excluded: int
    seen: int
    auroc: float  # all held-out generators against all real images, at JPEG 90
    controls: tuple[Control, ...]
    table: str  # Markdown


def evaluate(settings: EvaluateSettings, labelled: Sequence[LabelledImage]) -> Evaluated:
    """Writes evaluation.json, evaluation.md and plots, then fails if a control is broken.

    Raises:
        LabelError: a class with fewer than 20 images, or nothing left after leaving out what the scorer has seen.
        MdmfError: a control that does not hold; the files are written all the same.
    """
    setup, cache, chunks = settings.setup(), settings.token_cache(), chunked(labelled)
    loaded = {name: list(cache.read(chunks, name)) for name in settings.conditions()}
    facts = [entry for chunk in loaded[HEADLINE] for entry in chunk.facts]
    usable = np.logical_and.reduce([np.concatenate([c.counts.numpy() for c in found]) > 0 for found in loaded.values()])
    excluded = ~usable
    seen, seen_groups = _seen(settings, setup)
    known = np.array([f.sha256 in seen for f in facts])
    if settings.drop_seen:
        usable &= ~known
    require_classes([f.generated for f, use in zip(facts, usable.tolist(), strict=True) if use])
    images = {name: image_tokens(found, usable) for name, found in loaded.items()}
    kept = images[HEADLINE]
    shapes = [f.shape for f, use in zip(facts, usable.tolist(), strict=True) if use]
    found = {name: _scores(setup, tokens, shapes) for name, tokens in images.items()}
    scores = {name: values for name, (values, _) in found.items()}
    peers = _peers(settings, kept, setup.scorer.statistic.k)
    overlap = seen & set(kept.sha256s.tolist())
    real = ~kept.generated
    controls = (
        no_overlap(seen, set(kept.sha256s.tolist())),
        same_scores("real images as PNG against the same as stored", scores[CONTROL][real], scores["stored"][real]),
        shuffled_labels(scores[HEADLINE], kept.generated.tolist()),
    )
    trained = np.array([(made, group) in seen_groups for made, group in zip(kept.generated, kept.groups, strict=True)])
    tables = _tables(scores, peers, kept, trained)
    record = {
        "scorer_id": setup.scorer.scorer_id, "bank_id": setup.bank.bank_id, "calibration_id": setup.calibration.calibration_id,
        "source": settings.source, "code_version": version("mdmf"), "images": len(kept.sha256s),
        "excluded": [asdict(f) for f, bad in zip(facts, excluded, strict=True) if bad],
        "seen_and_dropped": int(known.sum()) if settings.drop_seen else 0,
        "controls": [asdict(control) for control in controls],
        "tables": {name: [asdict(figure) for figure in figures] for name, figures in tables.items()},
        "robustness": _robustness(scores, kept),
        "real_flagged": _real_flagged(found["stored"][1], kept),
    }  # fmt: skip
    page = evaluation_page(record, tables, controls, settings.scorer, settings.source)
    files = {
        "evaluation.json": json.dumps(record, indent=1).encode(),
        "evaluation.md": page.encode(),
        "generators.png": table_plot(tables),
        "robustness.png": robustness_plot(_robustness(scores, kept)),
    }
    publish(settings.out, files, settings.storage_block)
    broken = [control for control in controls if not control.holds]
    if broken:
        advice = " Pass drop_seen to leave them out." if overlap else ""
        raise MdmfError(
            f"controls do not hold: {'; '.join(c.name + ': ' + c.detail for c in broken)}.{advice} See {settings.out}"
        )
    headline = next(figures for name, figures in tables.items() if name.startswith("mdmf"))
    pooled = next(figure for figure in headline if figure.name == "all generators")
    return Evaluated(
        settings.out, len(kept.sha256s), int(excluded.sum()), int(known.sum()), pooled.auroc, controls, markdown(headline)
    )


def _scores(setup: ScoringSetup, images: ImageTokens, shapes: Sequence[ImageShape]) -> tuple[np.ndarray, np.ndarray]:
    """Scores and p-values as `curate` computes them, from cached tokens."""
    found: list[ImageScore] = []
    for start in range(0, len(images.tokens), 32):
        some = images.tokens[start : start + 32]
        flat = torch.cat(list(some)).float()
        vectors = flat if setup.scorer.signature is None else setup.scorer.signature(flat.to(setup.scorer.device))
        means = torch.stack([tokens.float().mean(0) for tokens in some])
        signatures = Signatures(vectors, [len(tokens) for tokens in some], means)
        found += setup.scorer.score(signatures, shapes[start : start + 32], setup.bank, setup.calibration)
    return np.array([row.score for row in found]), np.array([row.p_value for row in found])


def _seen(settings: EvaluateSettings, setup: ScoringSetup) -> tuple[set[str], set[tuple[bool, str]]]:
    """sha256 of all images that scorer, bank and calibration have seen, and the groups of training."""
    seen = {member.sha256 for member in setup.bank.members} | {
        sha256 for part in setup.calibration.slices for sha256 in part.sha256s
    }
    data = scorer_file(settings.scorer, SEEN, settings.storage_block)
    if data is None:
        return seen, set()
    try:
        rows = pq.read_table(io.BytesIO(data)).to_pylist()
    except pa.ArrowException as error:
        raise ArtifactError(f"{SEEN} of {settings.scorer}: {error}") from error
    return seen | {row["sha256"] for row in rows}, {(row["label"] == "generated", row["group"]) for row in rows}


def _peers(settings: EvaluateSettings, images: ImageTokens, k: int) -> dict[str, np.ndarray]:
    """Scores of the peers that were trained beside the scorer, on the same images."""
    data = scorer_file(settings.scorer, PEERS, settings.storage_block)
    if data is None:
        return {}
    tensors = load_tensors(data)
    plain = image_terms(None, float(tensors["plain.sigma"]), tensors["plain.points"], images, k)
    return {
        "global probe": LinearModel.from_tensors(tensors, "probe").logits(images.embeddings),
        "patch vote": vote(LinearModel.from_tensors(tensors, "vote"), images),
        "plain mmd": plain[:, 0],
    }


def _tables(
    scores: Mapping[str, np.ndarray], peers: Mapping[str, np.ndarray], images: ImageTokens, trained: np.ndarray
) -> dict[str, list[Figure]]:
    """Groups that training held and groups that it did not, never in one table."""
    found: dict[str, list[Figure]] = {}
    sides = (("held-out groups", ~trained), ("groups seen in training", trained))
    named = {"mdmf": scores[HEADLINE], "mdmf, as stored": scores["stored"]} | dict(peers)
    for side, inside in sides:
        made = inside & images.generated
        # Too few real images of a side's own sources: all real images stand in, and the name says so.
        own = inside & ~images.generated
        real = own if own.sum() >= MIN_IMAGES else ~images.generated
        use = made | real
        if not made.any():
            continue
        note = side if own.sum() >= MIN_IMAGES else f"{side}, against all real sources"
        for name, values in named.items():
            found[f"{name}: {note}"] = table(
                values[use], images.generated[use].tolist(), images.groups[use].tolist(), images.domains[use].tolist()
            )
    return found


def _robustness(scores: Mapping[str, np.ndarray], images: ImageTokens) -> list[dict[str, float | str]]:
    made, real = images.generated, ~images.generated
    return [
        {
            "condition": name,
            "auroc": auroc(values[made], values[real]),
            "tpr_at_5": tpr_at_fpr(values[made], values[real], 0.05),
        }
        for name, values in scores.items()
        if name != CONTROL
    ]


def _real_flagged(p: np.ndarray, images: ImageTokens) -> list[dict[str, float | str | int]]:
    """Share of real images of every source that the calibration's lines at 1, 5 and 10 % flag, of their p-values."""
    rows: list[dict[str, float | str | int]] = []
    for source in np.unique(images.groups[~images.generated]):
        own = p[(images.groups == source) & ~images.generated]
        shares = {f"at_{round(100 * fpr)}": float((own <= fpr).mean()) for fpr in (0.01, 0.05, 0.1)}
        rows.append({"source": str(source), "images": len(own), **shares})
    return rows
