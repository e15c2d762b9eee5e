"""Detection figures. Positive class: generated; higher score = more likely generated."""

import numpy as np
from jaxtyping import Bool, Float


def auroc(generated: Float[np.ndarray, " n"], real: Float[np.ndarray, " m"]) -> float:
    """P(score of a generated image > score of a real one) + half the ties, in [0, 1].

    Raises:
        ValueError: a class is empty or a score is not finite.

    >>> auroc(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    0.875
    """
    if not len(generated) or not len(real):
        raise ValueError(f"AUROC needs both classes, got {len(generated)} generated and {len(real)} real")
    if not (np.isfinite(generated).all() and np.isfinite(real).all()):
        raise ValueError("AUROC of scores that are not finite")
    ordered = np.sort(real)
    below = np.searchsorted(ordered, generated, side="left")
    ties = np.searchsorted(ordered, generated, side="right") - below
    return float((below + ties / 2).mean() / len(real))


def auroc_interval(
    generated: Float[np.ndarray, " n"], real: Float[np.ndarray, " m"], level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval, each class resampled by image.

    Raises:
        ValueError: as ``auroc``.
    """
    auroc(generated, real)  # refuses what has none
    generator = np.random.default_rng(seed)
    ordered = np.sort(real)
    below, through = (np.searchsorted(ordered, generated, side=side) for side in ("left", "right"))
    place = np.searchsorted(ordered, real)
    values = np.zeros(draws)
    for draw in range(draws):  # sorted once: a draw only counts how often every real image came up
        made = generator.choice(len(generated), len(generated))
        drawn = np.bincount(place[generator.choice(len(real), len(real))], minlength=len(real))
        counts = np.concatenate([[0], np.cumsum(drawn)])
        values[draw] = (counts[below] + counts[through])[made].mean() / (2 * len(real))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def tpr_at_fpr(generated: Float[np.ndarray, " n"], real: Float[np.ndarray, " m"], fpr: float) -> float:
    """Share of generated images above the lowest line that at most ``fpr`` of the real ones exceed.

    Raises:
        ValueError: ``fpr`` outside [0, 1), or an empty class.
    """
    if not 0 <= fpr < 1:
        raise ValueError(f"fpr must lie in [0, 1), got {fpr}")
    if not len(generated) or not len(real):
        raise ValueError(f"TPR needs both classes, got {len(generated)} generated and {len(real)} real")
    allowed = int(np.floor(fpr * len(real) + 1e-9))
    line = np.sort(real)[::-1][allowed]
    above: Bool[np.ndarray, " n"] = generated > line
    return float(above.mean())


def average_precision(generated: Float[np.ndarray, " n"], real: Float[np.ndarray, " m"]) -> float:
    """Area under precision over recall as a step function, ties together; it depends on the prevalence n / (n + m).

    Raises:
        ValueError: a class is empty or a score is not finite.

    >>> average_precision(np.array([3.0, 1.0]), np.array([2.0]))
    0.8333333333333333
    """
    if not len(generated) or not len(real):
        raise ValueError(f"average precision needs both classes, got {len(generated)} generated and {len(real)} real")
    scores = np.concatenate([generated, real])
    if not np.isfinite(scores).all():
        raise ValueError("average precision of scores that are not finite")
    positive = np.arange(len(scores)) < len(generated)
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    last = np.append(np.diff(scores[order]) != 0, True)  # only where a threshold can lie
    recall = hits[last] / len(generated)
    precision = hits[last] / (np.flatnonzero(last) + 1)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))
