"""The neutral protocol: what a web-scale shard does to every image, real or generated, before anybody scores it.

Detectors are flattered by traces of a file's own past: its size, the phase of its 8 px grid, its encoder. A LAION-style shard
has cut, shrunk and encoded every image again, whoever made it, so none of these says who made it. Training, banks, calibration
and headline figures therefore see images through one random ``crawl`` history that never looks at the class.
"""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mdmf_core.images.reencode import reencoded
from mdmf_core.records import ExclusionReason, ImageExcluded

Pixels = UInt8[np.ndarray, "height width 3"]
_FILTERS = (Image.Resampling.LANCZOS, Image.Resampling.BICUBIC, Image.Resampling.BILINEAR)
_CUT = 16  # px; 1 to 15 are cut off the top and the left, so that no edge keeps its place on an 8 px grid
_SHORT = (256, 512)  # px; range of the shorter side
_KEPT = (0.9, 0.97)  # of a small image's own size: every image is shrunk a little
_QUALITIES, _SUBSAMPLINGS = (75, 85, 90, 95), (0, 2)  # JPEG; 4:4:4 and 4:2:0


def crawled(pixels: Pixels, least: int, random: np.random.Generator) -> Pixels:
    """The image after one random crawl: cut by 1 to 15 px, resized to a shorter side of 256 to 512 px, JPEG 75 to 95.

    Images that are smaller than that shrink to between 90 and 97 % of their size, but never below ``least`` px.

    Args:
        least: px that the shorter side keeps, since a crop must fit.

    Raises:
        ImageExcluded: ``too_small``, when the image would have to be enlarged.
    """
    left, top = random.integers(1, _CUT, size=2)
    image = Image.fromarray(pixels[top:, left:])
    short = min(image.size)
    if short < least:
        raise ImageExcluded(
            ExclusionReason.TOO_SMALL, f"{pixels.shape[1]} x {pixels.shape[0]} px; the neutral protocol needs {least + _CUT} px"
        )
    low = max(least, min(_SHORT[0], _KEPT[0] * short))
    scale = random.uniform(low, max(low, min(_SHORT[1], _KEPT[1] * short))) / short
    resample = _FILTERS[random.integers(len(_FILTERS))]
    width, height = (max(least, round(side * scale)) for side in image.size)
    quality, subsampling = int(random.choice(_QUALITIES)), int(random.choice(_SUBSAMPLINGS))
    return reencoded(np.asarray(image.resize((width, height), resample)), "JPEG", quality=quality, subsampling=subsampling)
