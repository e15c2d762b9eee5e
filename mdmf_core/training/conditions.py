"""From one decoded image to the crops that training or evaluation sees of it."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from mdmf_core.images.crops import CropPlan
from mdmf_core.records import ExclusionReason, ImageExcluded
from mdmf_core.training.augment import PERTURBATIONS, History, Pixels, perturb, random_crop
from mdmf_core.training.regenerate import Regenerator, match_spectrum, regenerate

_SMOOTHED = 0.4  # share of real training crops that are made as smooth as their regenerated counterpart
_SMALL = 128  # px; below this a region holds several crops


def crops_under(
    condition: str,
    pixels: Pixels,
    generated: bool,
    plan: CropPlan,
    regenerators: Sequence[Regenerator],
    seed: Sequence[int],
) -> UInt8[np.ndarray, "n 3 size size"]:
    """Crops of an image under a perturbation (all that the plan cuts) or under one random history (a few, anywhere).

    Raises:
        ImageExcluded: ``too_small``.
        ValueError: an unknown condition.
    """
    if condition in PERTURBATIONS:
        return plan.cut(perturb(pixels, condition))
    side = plan.size
    if min(pixels.shape[:2]) < side:
        raise ImageExcluded(ExclusionReason.TOO_SMALL, f"{pixels.shape[1]} x {pixels.shape[0]} px; training needs {side}")
    kind, _, variant = condition.rpartition("-")
    if kind not in ("augmented", "regenerated"):
        raise ValueError(f"unknown condition {condition!r}")
    random = np.random.default_rng([*seed, int(variant)])
    # Images below twice the crop could not follow a strong shrinking; sizes would then tell who was shrunk.
    history = History.draw(random, (0.5, 1.5) if side < _SMALL else (0.875, 1.5))
    region = history.region(pixels, side, random)
    smoothed = kind == "augmented" and not generated and random.random() < _SMOOTHED
    if regenerators and (kind == "regenerated" or smoothed):
        network = regenerators[int(random.integers(len(regenerators)))]
        made = regenerate(network, region, float(random.uniform(0, 0.7)), random)
        region = match_spectrum(region, made) if smoothed else made
    processed = history.apply(region, side, random)
    return plan.finish(np.stack([random_crop(processed, side, random) for _ in range(1 if side >= _SMALL else 3)]))
