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
from mdmf_core.scoring.scorer import Signatures
from mdmf_core.scoring.scorer_files import SEEN
from mdmf_core.training.baselines import PEERS, Peers
from mdmf_core.training.conditions import NEUTRAL
from mdmf_core.training.evaluation import Control, Figure, markdown, no_overlap, same_scores, shuffled_labels, table
from mdmf_core.training.figures import auroc, tpr_at_fpr
from mdmf_core.training.labelled import MIN_IMAGES, LabelledImage, require_classes
from mdmf_core.training.matched import matched_pairs
from mdmf_core.training.model_choice import ImageTokens, image_terms
from tasks.scoring.loading import load_setup, scorer_file
from tasks.scoring.scoring_setup import ScoringSetup
from tasks.storage.publishing import publish
from tasks.training.evaluation_page import evaluation_page
from tasks.training.labelled_sets import list_labelled
from tasks.training.plots import robustness_plot, table_plot
from tasks.training.token_cache import ImageFacts, TokenCache, chunked, image_tokens

CONTROL = "png"
MEASURED = (NEUTRAL, "stored")  # an image without crops under one of these is excluded


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
        return list(dict.fromkeys([*MEASURED, CONTROL, *self.grid]))

    def images(self) -> list[LabelledImage]:
        """The labelled set, in order."""
        return list_labelled(self.source, self.part, self.max_per_group, self.storage_block)

    def setup(self) -> ScoringSetup:
        return load_setup(self.scorer, self.bank, self.device, 32, 0, self.storage_block)

    def token_cache(self) -> TokenCache:
        return TokenCache(self.cache, self.setup().scorer)


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found, small enough to return."""

    directory: str
    images: int
    excluded: int
    seen: int
    auroc: float  # all held-out generators against all real images, under the neutral protocol
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
    facts = [entry for chunk in loaded[NEUTRAL] for entry in chunk.facts]
    has_crops = {name: np.concatenate([c.counts.numpy() for c in found]) > 0 for name, found in loaded.items()}
    usable = np.logical_and.reduce([has_crops[name] for name in (*MEASURED, CONTROL)])
    excluded = ~usable
    seen, seen_groups = _seen(settings, setup)
    known = np.array([f.sha256 in seen for f in facts])
    seen_count = int(known.sum())
    if settings.drop_seen:
        usable &= ~known
    require_classes([f.generated for f, use in zip(facts, usable.tolist(), strict=True) if use])
    kept = image_tokens(loaded[NEUTRAL], usable)
    facts_kept = [f for f, use in zip(facts, usable.tolist(), strict=True) if use]
    found = {
        name: _scores(setup, image_tokens(chunks, usable & has_crops[name]), has_crops[name][usable], facts_kept)
        for name, chunks in loaded.items()
    }
    scores = {name: values for name, (values, _) in found.items()}
    peers = _peers(settings, kept, setup.scorer.statistic.k)
    controls = _controls(seen, scores, kept)
    trained = np.array([(made, group) in seen_groups for made, group in zip(kept.generated, kept.groups, strict=True)])
    tables = _tables(scores, peers, kept, trained)
    matched = matched_pairs(_titled(scores) | peers, kept.generated, kept.pairs.tolist())
    record = {
        "scorer_id": setup.scorer.scorer_id, "bank_id": setup.bank.bank_id, "calibration_id": setup.calibration.calibration_id,
        "source": settings.source, "code_version": version("mdmf"), "images": len(kept.sha256s),
        "excluded": [asdict(f) for f, bad in zip(facts, excluded, strict=True) if bad],
        "seen_and_dropped": seen_count if settings.drop_seen else 0,
        "controls": [asdict(control) for control in controls],
        "tables": {name: [asdict(figure) for figure in figures] for name, figures in tables.items()},
        "content_matched": [asdict(figure) for figure in matched],
        "robustness": _robustness(scores, kept),
        "real_flagged": {name: _real_flagged(found[name][1], kept) for name in MEASURED},
    }  # fmt: skip
    page = evaluation_page(record, tables, matched, controls, settings.scorer, settings.source)
    files = {
        "evaluation.json": json.dumps(record, indent=1).encode(),
        "evaluation.md": page.encode(),
        "generators.png": table_plot(tables),
        "robustness.png": robustness_plot(_robustness(scores, kept)),
    }
    publish(settings.out, files, settings.storage_block)
    _require_controls(controls, bool(seen & set(kept.sha256s.tolist())), settings.out)
    headline = next(figures for name, figures in tables.items() if name.startswith("mdmf"))
    pooled = next(figure.auroc for figure in headline if figure.name == "all generators")
    return Evaluated(settings.out, len(kept.sha256s), int(excluded.sum()), seen_count, pooled, controls, markdown(headline))


def _controls(seen: set[str], scores: Mapping[str, np.ndarray], kept: ImageTokens) -> tuple[Control, ...]:
    """Checks what must hold for any honest figure: no image seen before, no format told apart, no labels guessed by chance."""
    real = ~kept.generated
    return (
        no_overlap(seen, set(kept.sha256s.tolist())),
        same_scores("real images as PNG against the same as stored", scores[CONTROL][real], scores["stored"][real]),
        shuffled_labels(scores[NEUTRAL], kept.generated.tolist()),
    )


def _require_controls(controls: Sequence[Control], overlap: bool, out: str) -> None:
    """Raises MdmfError when a control does not hold; the files in ``out`` are written by then."""
    broken = [control for control in controls if not control.holds]
    if broken:
        advice = " Pass drop_seen to leave them out." if overlap else ""
        raise MdmfError(f"controls do not hold: {'; '.join(c.name + ': ' + c.detail for c in broken)}.{advice} See {out}")


def _scores(
    setup: ScoringSetup, images: ImageTokens, there: np.ndarray, facts: Sequence[ImageFacts]
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and p-values as `curate` computes them, from cached tokens; NaN for images that are not ``there``."""
    at = np.flatnonzero(there).tolist()
    scores, p_values = np.full((2, len(facts)), np.nan)
    for start in range(0, len(at), 32):
        some, rows = images.tokens[start : start + 32], at[start : start + 32]
        flat = torch.cat(list(some)).float()
        vectors = flat if setup.scorer.signature is None else setup.scorer.signature(flat.to(setup.scorer.device))
        means = torch.stack([tokens.float().mean(0) for tokens in some])
        signatures = Signatures(vectors, [len(tokens) for tokens in some], means)
        found = setup.scorer.score(signatures, [facts[row].shape for row in rows], setup.bank, setup.calibration)
        scores[rows], p_values[rows] = [row.score for row in found], [row.p_value for row in found]
    return scores, p_values


def _titled(scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"mdmf": scores[NEUTRAL], "mdmf, as stored": scores["stored"]}


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
    """Scores of the peers that were trained beside the scorer, on the same crops; none for one of an earlier version."""
    data = scorer_file(settings.scorer, PEERS, settings.storage_block)
    tensors = {} if data is None else load_tensors(data)
    if "class.bias" not in tensors:
        return {}
    plain = image_terms(None, float(tensors["plain.sigma"]), tensors["plain.points"], images, k)
    return Peers.from_tensors(tensors).scores(images) | {"plain mmd": plain[:, 0]}


def _tables(
    scores: Mapping[str, np.ndarray], peers: Mapping[str, np.ndarray], images: ImageTokens, trained: np.ndarray
) -> dict[str, list[Figure]]:
    """Groups that training held and groups that it did not, never in one table."""
    found: dict[str, list[Figure]] = {}
    sides = (("held-out groups", ~trained), ("groups seen in training", trained))
    named = _titled(scores) | dict(peers)
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


def _robustness(scores: Mapping[str, np.ndarray], images: ImageTokens) -> list[dict[str, float | str | int]]:
    """Every condition beside the neutral protocol on the same images: a small image has no crop left under some."""
    rows: list[dict[str, float | str | int]] = []
    for name, values in scores.items():
        there = np.isfinite(values)
        made, real = there & images.generated, there & ~images.generated
        if name != CONTROL and made.any() and real.any():
            rows.append(
                {
                    "condition": name,
                    "images": int(there.sum()),
                    "auroc": auroc(values[made], values[real]),
                    "neutral": auroc(scores[NEUTRAL][made], scores[NEUTRAL][real]),
                    "tpr_at_5": tpr_at_fpr(values[made], values[real], 0.05),
                }
            )
    return rows


def _real_flagged(p: np.ndarray, images: ImageTokens) -> list[dict[str, float | str | int]]:
    """Share of real images of every source that the calibration's lines at 1, 5 and 10 % flag, of their p-values."""
    rows: list[dict[str, float | str | int]] = []
    for source in np.unique(images.groups[~images.generated]):
        own = p[(images.groups == source) & ~images.generated]
        shares = {f"at_{round(100 * fpr)}": float((own <= fpr).mean()) for fpr in (0.01, 0.05, 0.1)}
        rows.append({"source": str(source), "images": len(own), **shares})
    return rows
