"""Random processing histories and named perturbations, the same for real and generated images.

A detector that sees JPEG photographs and PNG generations learns the file format. Here both classes pass the same random
resizing, blur, noise and encodings, and crops lie at random offsets against every compression grid.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter

from mdmf_core.images.reencode import reencoded

Pixels = UInt8[np.ndarray, "height width 3"]
_FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS, Image.Resampling.BOX)
_MARGIN = 64  # px of a region beyond one crop, so that crops differ in their offset

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


@dataclass(frozen=True)
class History:
    """One random processing history. The draw does not look at the image, so it cannot tell the classes apart."""

    first_quality: int | None  # an earlier JPEG, as photographs carry
    scale: float
    resample: Image.Resampling
    blur: float  # sigma, px
    noise: float  # sigma, levels
    codec: str | None
    quality: int
    subsampling: int

    @classmethod
    def draw(cls, random: np.random.Generator, scales: tuple[float, float] = (0.5, 1.5)) -> "History":
        """About half at native size, 60 % with an earlier JPEG, 90 % compressed at least once."""
        last = random.random()
        narrow = random.random() < 0.6
        return cls(
            first_quality=int(random.choice([65, 70, 75, 80, 85, 90, 92, 95, 98])) if random.random() < 0.6 else None,
            scale=1.0 if random.random() < 0.45 else float(np.exp(random.uniform(*np.log(scales)))),
            resample=_FILTERS[random.integers(len(_FILTERS))],
            blur=float(random.uniform(0.3, 1.3)) if random.random() < 0.2 else 0.0,
            noise=float(random.uniform(0.5, 4.0)) if random.random() < 0.1 else 0.0,
            codec="JPEG" if last < 0.75 else "WEBP" if last < 0.85 else None,
            quality=int(random.integers(80, 97) if narrow else random.integers(50, 101)),
            subsampling=int(random.choice([0, 1, 2, 2])),
        )

    def region(self, pixels: Pixels, side: int, random: np.random.Generator) -> Pixels:
        """A random part of the image that holds one ``side`` px crop, and some margin, after the resize."""
        wanted = int(np.ceil((side + _MARGIN) / self.scale))
        spans = [min(wanted, length) for length in pixels.shape[:2]]
        top, left = (int(random.integers(length - span + 1)) for length, span in zip(pixels.shape, spans, strict=False))
        return pixels[top : top + spans[0], left : left + spans[1]]

    def apply(self, region: Pixels, side: int, random: np.random.Generator) -> Pixels:
        """The processed region, never below ``side`` px: a region too small for the drawn scale keeps its size."""
        if self.first_quality is not None:
            top, left = random.integers(8, size=2) if min(region.shape[:2]) >= side + 8 else (0, 0)
            region = reencoded(region, "JPEG", quality=self.first_quality, subsampling=2)[top:, left:]
        image = Image.fromarray(region)
        width, height = round(image.width * self.scale), round(image.height * self.scale)
        if self.scale != 1 and min(width, height) >= side:
            image = image.resize((width, height), self.resample)
        if self.blur:
            image = image.filter(ImageFilter.GaussianBlur(self.blur))
        pixels = np.asarray(image)
        if self.noise:
            pixels = _noisy(pixels, self.noise, random)
        if self.codec == "JPEG":
            pixels = reencoded(pixels, "JPEG", quality=self.quality, subsampling=self.subsampling)
        elif self.codec == "WEBP":
            pixels = reencoded(pixels, "WEBP", quality=self.quality, method=2)
        return pixels


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
