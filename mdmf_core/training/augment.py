"""Named perturbations for the robustness table, the same for real and generated images, and crops at random offsets."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter

from mdmf_core.images.reencode import reencoded

Pixels = UInt8[np.ndarray, "height width 3"]

PERTURBATIONS = (
    "stored", "png", "jpeg-100", "jpeg-95", "jpeg-90", "jpeg-80", "jpeg-70", "jpeg-60", "jpeg-50", "webp-80", "blur-0.5",
    "blur-1", "blur-2", "noise-2", "noise-5", "resize-0.5", "resize-0.75", "resize-1.5", "resize-2",
)  # fmt: skip


def perturb(pixels: Pixels, name: str) -> Pixels:
    """One cell of the robustness grid: ``jpeg-Q``, ``webp-Q``, ``blur-SIGMA`` px, ``noise-SIGMA`` levels, ``resize-FACTOR``.

    Blur, noise and resize are followed by JPEG 90, so that all cells but ``stored`` and ``png`` end in a lossy encoding, as
    web images do. ``stored`` leaves the pixels as they are; ``png`` takes them through a PNG file.

    Raises:
        ValueError: an unknown name.
    """
    kind, _, amount = name.partition("-")
    if name == "stored":
        return pixels
    if name == "png":
        return reencoded(pixels, "PNG")
    try:
        value = float(amount)
        match kind:
            case "jpeg" | "webp":
                options = {"subsampling": 2} if kind == "jpeg" else {"method": 2}
                return reencoded(pixels, kind.upper(), quality=int(value), **options)
            case "blur":
                changed = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(value)))
            case "noise":
                changed = _noisy(pixels, value, np.random.default_rng(0))
            case "resize":
                height, width = (max(1, round(side * value)) for side in pixels.shape[:2])
                changed = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
            case _:
                raise ValueError(kind)
    except ValueError as error:
        raise ValueError(f"unknown perturbation {name!r}; for example {', '.join(PERTURBATIONS[2:])}") from error
    return reencoded(changed, "JPEG", quality=90, subsampling=2)


def random_crop(pixels: Pixels, side: int, random: np.random.Generator) -> UInt8[np.ndarray, "side side 3"]:
    """One crop at a random offset.

    Raises:
        ValueError: an image smaller than the crop.
    """
    height, width, _ = pixels.shape
    if min(height, width) < side:
        raise ValueError(f"a {side} px crop does not fit into {width} x {height} px")
    top, left = int(random.integers(height - side + 1)), int(random.integers(width - side + 1))
    return pixels[top : top + side, left : left + side]


def _noisy(pixels: Pixels, sigma: float, random: np.random.Generator) -> Pixels:
    noise = random.normal(0, sigma, pixels.shape)
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)
