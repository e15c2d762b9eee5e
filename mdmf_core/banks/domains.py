"""Domains are the kinds of real images that a bank holds; they decide which of them an image may be compared with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from mdmf_core.choices import Condition
from mdmf_core.records import ImageShape

_QUALITIES = (0, 75, 90, 101)  # JPEG: lower edges of the bands, and one past the last
_SIDES = (0, 320, 768, 1 << 31)  # pixels of the shorter side
_HISTORY: dict[bool | None, int] = {None: -1, False: 0, True: 1}  # of resizing, as a number
PLAUSIBLE = 0.05  # posterior from which a domain may be an image's own


@dataclass(frozen=True)
class ShapeColumns:
    """The shapes of many images are held as arrays."""

    short: Int[np.ndarray, " n"]  # shorter side, pixels
    long: Int[np.ndarray, " n"]
    quality: Int[np.ndarray, " n"]  # JPEG; -1 = not a JPEG
    resized: Int[np.ndarray, " n"]  # as in ``_HISTORY``

    @classmethod
    def of(cls, shapes: Sequence[ImageShape]) -> "ShapeColumns":
        sides = np.array([(shape.width, shape.height) for shape in shapes], dtype=np.int64)
        quality = np.array([-1 if shape.jpeg_quality is None else shape.jpeg_quality for shape in shapes], dtype=np.int64)
        resized = np.array([_HISTORY[shape.resized] for shape in shapes], dtype=np.int64)
        return cls(sides.min(1), sides.max(1), quality, resized)


@dataclass(frozen=True)
class Support:
    """The images that a slice of a bank speaks for; outside it a p-value is backed by nothing."""

    side_min: int  # shorter side, pixels
    side_max: int  # longer side, pixels
    short_max: int  # shorter side, pixels
    quality_min: int  # JPEG
    quality_max: int
    lossless: bool  # whether PNG or WebP was calibrated at all
    resized: tuple[bool | None, ...] | None = None  # None = any

    def covers(self, shape: ImageShape) -> bool:
        """Says whether an image of this size, JPEG quality and history lies in the range."""
        return bool(self.covering(ShapeColumns.of([shape]))[0])

    def covering(self, shapes: "ShapeColumns") -> Bool[np.ndarray, " n"]:
        """Says for many images at once whether each lies in the range."""
        sized = (shapes.short >= self.side_min) & (shapes.short <= self.short_max) & (shapes.long <= self.side_max)
        lossless = shapes.quality < 0
        encoded = np.where(lossless, self.lossless, (shapes.quality >= self.quality_min) & (shapes.quality <= self.quality_max))
        allowed = [_HISTORY[resized] for resized in (_HISTORY if self.resized is None else self.resized)]
        covered: Bool[np.ndarray, " n"] = sized & encoded & np.isin(shapes.resized, allowed)
        return covered

    @classmethod
    def of(cls, shapes: Sequence[ImageShape], match: Sequence[Condition]) -> "Support":
        """Finds the range of some images; whole bands where they were matched by band."""
        qualities = [shape.jpeg_quality for shape in shapes if shape.jpeg_quality is not None]
        short = [min(shape.width, shape.height) for shape in shapes]
        quality = (min(qualities, default=1), 100)
        sides = (min(short), _SIDES[-1])
        if "quality" in match and qualities:
            low = _band(_QUALITIES, qualities[0])
            quality = (low, next(edge for edge in _QUALITIES if edge > low) - 1)
        if "size" in match:
            low = _band(_SIDES, short[0])
            sides = (low or min(short), next(edge for edge in _SIDES if edge > low) - 1)
        return cls(
            side_min=sides[0],
            side_max=max(max(shape.width, shape.height) for shape in shapes),
            short_max=sides[1],
            quality_min=quality[0],
            quality_max=quality[1],
            lossless=len(qualities) < len(shapes),
            resized=tuple(sorted({shape.resized for shape in shapes}, key=str)) if "resized" in match else None,
        )


def _band(edges: Sequence[int], value: int) -> int:
    return max(edge for edge in edges if edge <= value)


def slice_name(domain: str, shape: ImageShape, match: Sequence[Condition]) -> str:
    """The slice that a real image belongs to: its domain, and the bands of the conditions that are matched.

    >>> slice_name("photo", ImageShape(640, 480, 92, None), ("quality", "size"))
    'photo, jpeg 90-100, 320-767 px'
    """
    parts = [domain]
    if "quality" in match:
        low = _band(_QUALITIES, shape.jpeg_quality or 0)
        high = next(edge for edge in _QUALITIES if edge > low) - 1
        parts.append("lossless" if shape.jpeg_quality is None else f"jpeg {low}-{high}")
    if "size" in match:
        low = _band(_SIDES, min(shape.width, shape.height))
        high = next(edge for edge in _SIDES if edge > low) - 1
        parts.append(f"{low}-{high} px" if high < _SIDES[-1] - 1 else f"{low} px and more")
    if "resized" in match:
        parts.append({True: "resized", False: "not resized", None: "resize unknown"}[shape.resized])
    return ", ".join(parts)


def cluster(embeddings: Float[np.ndarray, "n e"], clusters: int, seed: int = 0) -> list[str]:
    """Names a domain for every image, by k-means on standardised embeddings.

    Raises:
        ValueError: fewer images than clusters.
    """
    if len(embeddings) < clusters:
        raise ValueError(f"{len(embeddings)} images cannot form {clusters} clusters")
    wide = (embeddings - embeddings.mean(0)) / (embeddings.std(0) + 1e-6)
    labels = KMeans(clusters, n_init=4, random_state=seed).fit_predict(wide)
    return [f"cluster-{label}" for label in labels]


@dataclass(frozen=True)
class Router:
    """A router tells from an image's embedding which domains it may belong to, by a multinomial logistic model.

    It tells domains apart from each other and never rejects an image: with forensic features generated images are the outliers,
    and a gate would call them *unsure* instead of finding them.
    """

    domains: tuple[str, ...]
    mean: Float[Tensor, " e"]
    std: Float[Tensor, " e"]
    weight: Float[Tensor, "domains e"]
    bias: Float[Tensor, " domains"]

    def plausible(self, embeddings: Float[Tensor, "n e"]) -> Bool[np.ndarray, "n domains"]:
        """Finds the domains whose posterior is at least 5 %; the most probable one always is among them."""
        wide = (embeddings.double().cpu() - self.mean) / self.std
        posterior = torch.softmax(wide @ self.weight.T + self.bias, 1)
        best = posterior.argmax(1, keepdim=True)
        plausible: Bool[np.ndarray, "n domains"] = (posterior >= PLAUSIBLE).scatter(1, best, True).numpy()
        return plausible

    def tensors(self) -> dict[str, Tensor]:
        """Returns the router as named tensors, for a bank's file."""
        return {f"router.{name}": getattr(self, name).contiguous() for name in ("mean", "std", "weight", "bias")}

    @classmethod
    def from_tensors(cls, domains: Sequence[str], tensors: Mapping[str, Tensor]) -> "Router":
        """Rebuilds a router from its tensors; raises KeyError for one that is not there."""
        return cls(tuple(domains), *(tensors[f"router.{name}"] for name in ("mean", "std", "weight", "bias")))

    @classmethod
    def fit(cls, embeddings: Float[np.ndarray, "n e"], domains: Sequence[str]) -> "Router":
        """Fits a router to real images of known domains; the domains weigh alike."""
        names = sorted(set(domains))
        mean, std = embeddings.mean(0).astype(np.float64), embeddings.std(0).astype(np.float64) + 1e-6
        # On five domains of real images, half to fit: 96 to 100 % of the other half keep their own domain, of 2.3 plausible
        # ones in the mean. Weaker regularisation names fewer domains, and drops the right one for up to 15 %.
        model = LogisticRegression(C=0.03, max_iter=500, class_weight="balanced")
        model.fit((embeddings - mean) / std, [names.index(domain) for domain in domains])
        weight, bias = model.coef_, model.intercept_
        if len(names) == 2:  # scikit-learn keeps one row for two classes: the logit of the second
            weight, bias = np.vstack([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
        return cls(tuple(names), *(torch.from_numpy(np.asarray(part, np.float64)) for part in (mean, std, weight, bias)))
