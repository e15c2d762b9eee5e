"""Content-matched figures: generated images against real ones of the same subjects, so that no subject tells the classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from mdmf_core.training.figures import auroc

MEAN = "mean of the pairs"
_DRAWS = 1000


@dataclass(frozen=True)
class MatchedFigure:
    """AUROC of one method on one pair, or its mean over the pairs, with the 95 % bootstrap interval by image."""

    method: str
    pair: str
    generated: int
    real: int
    auroc: float
    low: float
    high: float


def matched_pairs(
    scores: Mapping[str, Float[np.ndarray, " n"]], generated: Bool[np.ndarray, " n"], pairs: Sequence[str | None]
) -> list[MatchedFigure]:
    """Every method on every pair that holds both classes, and its mean over the pairs; empty without such a pair.

    All methods are resampled with the same images, so that their differences can be read from a common draw.
    """
    of = np.array([pair or "" for pair in pairs])
    names = [name for name in sorted(set(of.tolist()) - {""}) if len(set(generated[of == name])) == 2]
    found = []
    means: dict[str, list[Float[np.ndarray, " draws"]]] = {method: [] for method in scores}
    for name in names:
        sides = [np.flatnonzero((of == name) & (generated == label)) for label in (True, False)]
        random = np.random.default_rng(0)
        draws = [[random.choice(side, len(side)) for side in sides] for _ in range(_DRAWS)]
        for method, values in scores.items():
            drawn = np.array([auroc(values[made], values[real]) for made, real in draws])
            means[method].append(np.append(drawn, auroc(values[sides[0]], values[sides[1]])))
            found.append(_row(method, name, len(sides[0]), len(sides[1]), means[method][-1]))
    if names:
        made, real = (int((np.isin(of, names) & (generated == label)).sum()) for label in (True, False))
        found += [_row(method, MEAN, made, real, np.mean(values, 0)) for method, values in means.items()]
    return found


def _row(method: str, pair: str, generated: int, real: int, values: Float[np.ndarray, " draws"]) -> MatchedFigure:
    """A figure from its bootstrap draws, the last of which is the estimate itself."""
    low, high = np.quantile(values[:-1], [0.025, 0.975])
    return MatchedFigure(method, pair, generated, real, float(values[-1]), float(low), float(high))


def matched_markdown(figures: Sequence[MatchedFigure]) -> str:
    """A table with one line a method and one column a pair."""
    pairs = list(dict.fromkeys(figure.pair for figure in figures))
    sizes = {figure.pair: f"{figure.generated} / {figure.real}" for figure in figures}
    lines = ["| | " + " | ".join(f"{pair} ({sizes[pair]})" for pair in pairs) + " |", "|---|" + "---:|" * len(pairs)]
    for method in dict.fromkeys(figure.method for figure in figures):
        own = {figure.pair: figure for figure in figures if figure.method == method}
        cells = (f"{own[pair].auroc:.3f} [{own[pair].low:.3f}, {own[pair].high:.3f}]" for pair in pairs)
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
