"""Detection figures per generator, and the controls that void a run when they break."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mdmf_core.training.figures import auroc, auroc_interval, average_precision, tpr_at_fpr


@dataclass(frozen=True)
class Figure:
    """One generator, or all of them together, against a set of real images."""

    name: str
    generated: int
    real: int
    auroc: float
    low: float  # 95 % bootstrap interval by image
    high: float
    average_precision: float
    prevalence: float  # generated / all, without which the average precision says nothing
    tpr_at_1: float
    tpr_at_5: float


@dataclass(frozen=True)
class Control:
    """Something that must hold for the figures beside it to mean anything."""

    name: str
    value: float
    holds: bool
    detail: str


def figure(name: str, generated: Float[np.ndarray, " n"], real: Float[np.ndarray, " m"]) -> Figure:
    """All figures of one comparison; higher score = more likely generated."""
    low, high = auroc_interval(generated, real)
    return Figure(
        name, len(generated), len(real), auroc(generated, real), low, high, average_precision(generated, real),
        len(generated) / (len(generated) + len(real)), tpr_at_fpr(generated, real, 0.01), tpr_at_fpr(generated, real, 0.05),
    )  # fmt: skip


def table(
    scores: Float[np.ndarray, " n"], generated: Sequence[bool], groups: Sequence[str], domains: Sequence[str]
) -> list[Figure]:
    """Each generator against all real images, then all together, then within each domain that has both classes.

    Raises:
        ValueError: a class is empty.
    """
    made, group, domain = np.asarray(generated, dtype=bool), np.asarray(groups), np.asarray(domains)
    real = scores[~made]
    figures = [figure(str(name), scores[made & (group == name)], real) for name in np.unique(group[made])]
    figures.append(figure("all generators", scores[made], real))
    shared = sorted(set(domain[made]) & set(domain[~made]))
    if len(set(domain)) > 1:
        for name in shared:
            inside = domain == name
            figures.append(figure(f"within domain {name}", scores[made & inside], scores[~made & inside]))
    return figures


def same_scores(name: str, first: Float[np.ndarray, " n"], second: Float[np.ndarray, " n"]) -> Control:
    """Real images in two file formats must not be told apart: another AUROC than .5 says that the format moves the score."""
    value = auroc(first, second)
    return Control(name, value, bool(abs(value - 0.5) <= 0.02), f"AUROC {value:.3f} must be .5 within .02")


def shuffled_labels(scores: Float[np.ndarray, " n"], generated: Sequence[bool], seed: int = 0) -> Control:
    """AUROC under shuffled labels: .5 within four standard errors of the null, or the figures come from the code."""
    made = np.random.default_rng(seed).permutation(np.asarray(generated, dtype=bool))
    n, m = int(made.sum()), int((~made).sum())
    reach = 4 * np.sqrt((n + m + 1) / (12 * n * m))
    value = auroc(scores[made], scores[~made])
    return Control(
        "shuffled labels", value, bool(abs(value - 0.5) <= reach), f"AUROC {value:.3f} must be .5 within {reach:.3f}"
    )


def no_overlap(seen: set[str], tested: set[str]) -> Control:
    """No tested image was seen in training, bank or calibration, by sha256."""
    shared = len(seen & tested)
    detail = f"{shared} of {len(tested)} tested images were seen in training, bank or calibration"
    return Control("train/test overlap", float(shared), not shared, detail)


def per_generator(figures: Sequence[Figure]) -> Mapping[str, float]:
    """AUROC by generator, without the pooled rows."""
    return {f.name: f.auroc for f in figures if f.name != "all generators" and not f.name.startswith("within domain ")}


def markdown(figures: Sequence[Figure]) -> str:
    """A table of figures for people."""
    lines = [
        "| generator | generated | real | AUROC | 95 % interval | AP (at prevalence) | TPR at 1 % | TPR at 5 % |",
        "|---|---:|---:|---:|---|---:|---:|---:|",
    ]
    lines += [
        f"| {_cell(f.name)} | {f.generated} | {f.real} | {f.auroc:.3f} | {f.low:.3f} to {f.high:.3f} | "
        f"{f.average_precision:.3f} ({f.prevalence:.2f}) | {f.tpr_at_1:.3f} | {f.tpr_at_5:.3f} |"
        for f in figures
    ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """A folder's name as a table cell: it may hold anything."""
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
