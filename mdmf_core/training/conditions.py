"""From one decoded image to the crops that training or evaluation sees of it."""

import numpy as np
from jaxtyping import UInt8

from mdmf_core.images.crops import CropPlan
from mdmf_core.training.augment import PERTURBATIONS, Pixels, perturb, random_crop
from mdmf_core.training.crawl import crawled

NEUTRAL = "crawl-0"  # the view that banks, calibration, every choice and every headline figure see; further ones train


def crops_under(condition: str, pixels: Pixels, sha256: str, plan: CropPlan) -> UInt8[np.ndarray, "n 3 size size"]:
    """Crops of an image under a perturbation, or of its view ``crawl-N``: one random history for each image and N.

    A plan of one crop gets it from a random place of a view, so that several views show several places; a plan of several
    cuts all of them.

    Args:
        sha256: of the image's file; it seeds the history, so that a view is the same for every run, set and class.

    Raises:
        ImageExcluded: ``too_small``.
        ValueError: an unknown condition.
    """
    if condition in PERTURBATIONS:
        return plan.cut(perturb(pixels, condition))
    kind, _, view = condition.rpartition("-")
    if kind != "crawl" or not view.isdecimal():
        raise ValueError(f"unknown condition {condition!r}; known are crawl-0, crawl-1 and so on, {', '.join(PERTURBATIONS)}")
    random = np.random.default_rng([int(sha256[:12], 16), int(view)])
    seen = crawled(pixels, plan.size, random)
    return plan.cut(seen) if plan.most > 1 else plan.finish(random_crop(seen, plan.size, random)[None])
