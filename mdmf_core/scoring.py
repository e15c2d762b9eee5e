"""Scorers: pixels to one score per image, with every term that it is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from mdmf_core.banks import Bank, Slice, domain_of
from mdmf_core.calibration import Calibration
from mdmf_core.crops import CropPlan
from mdmf_core.digests import digest_of, tensors_digest
from mdmf_core.mmd import PatchTerms, patch_terms, self_terms
from mdmf_core.pfs import PatchSignature
from mdmf_core.records import ImageShape

ALGORITHM = "mdmf-2"  # raise when a change in this package changes a score
TERMS = ("mmd2", "cross", "self_term", "top_k")


@dataclass(frozen=True)
class Statistic:
    """The headline score: a fixed linear combination of the terms, chosen once on validation data.

    ``{"mmd2": 1.0}`` is plain MMD^2; ``{"cross": -1.0}`` is distance from the bank alone. Higher = more likely generated.
    """

    terms: Mapping[str, float]
    k: int = 8  # patches in the top-k term

    def __post_init__(self) -> None:
        unknown = sorted(set(self.terms) - set(TERMS))
        if unknown or not self.terms or self.k < 1:
            raise ValueError(f"a statistic combines {', '.join(TERMS)} with k >= 1, got {dict(self.terms)}, k={self.k}")

    def score(self, terms: PatchTerms) -> Float[Tensor, " images"]:
        weighted = [weight * getattr(terms, name) for name, weight in self.terms.items()]
        return torch.stack(weighted).sum(0)


@dataclass(frozen=True)
class ImageScore:
    """One row of the warehouse's ``scores``, without its identities."""

    score: float
    mmd2: float
    cross_term: float
    self_term: float
    top_k: float
    top_patch: int
    patches: int
    p_value: float
    domain: str
    in_support: bool


@dataclass(frozen=True)
class Signatures:
    """What is left of images when the backbone has run: all that a bank needs to score them."""

    vectors: Float[Tensor, "patches d"]  # PFS; image i owns the next counts[i] rows
    counts: list[int]
    embeddings: Float[Tensor, "images e"]  # mean patch token


@dataclass(frozen=True)
class Scorer:
    """Backbone, crops, PFS and statistic under one digest. ``backbone`` maps uint8 crops to patch tokens.

    Args:
        backbone_record: everything about the backbone that changes a number, but its weights.
        sigma: the kernel bandwidth learned with the PFS; None = each bank brings its own.
    """

    name: str
    backbone: nn.Module
    backbone_record: Mapping[str, object]
    crops: CropPlan
    signature: PatchSignature | None
    statistic: Statistic
    sigma: float | None
    device: torch.device
    autocast: torch.dtype | None
    scorer_id: str

    @torch.inference_mode()
    def extract(self, images: Sequence[UInt8[np.ndarray, "n 3 size size"]]) -> Signatures:
        """Runs the backbone once over images that are given as their crops; float32, on the scorer's device."""
        batch = torch.from_numpy(np.concatenate(images))
        if self.device.type == "cuda":
            batch = batch.pin_memory().to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            tokens = self.backbone(batch)
        per_crop = tokens.shape[1]
        crops = [len(image) for image in images]
        means = torch.stack([part.mean(0) for part in torch.split(tokens.float().mean(1), crops)])
        flat: Tensor = tokens.float().flatten(0, 1)
        vectors = flat if self.signature is None else self.signature(flat)
        return Signatures(vectors, [count * per_crop for count in crops], means)

    def patch_boxes(self, height: int, width: int) -> Float[np.ndarray, "patches 4"]:
        """(top, left, bottom, right) of every patch in pixels of the image, in the order of its signatures.

        Raises:
            ImageExcluded: as ``CropPlan.boxes``.
        """
        inside = cast(list[tuple[float, float, float]], self.backbone.patch_boxes())  # type: ignore[operator]
        return np.array(
            [
                (y + top, x + left, y + top + side, x + left + side)
                for y, x in self.crops.boxes(height, width)
                for top, left, side in inside
            ]
        )

    @torch.inference_mode()
    def terms(self, signatures: Float[Tensor, "patches d"], counts: list[int], slices: Sequence[Slice]) -> list[PatchTerms]:
        """MMD terms of images that own ``counts`` patches each, against every slice."""
        vectors = signatures.to(self.device)
        own = self_terms(vectors, counts, slices[0].sigma)
        return [
            patch_terms(
                vectors, counts, part.points.to(self.device), part.weights.to(self.device), part.sigma, part.bank_term,
                self.statistic.k, own,
            )
            for part in slices
        ]  # fmt: skip

    def score(self, found: Signatures, shapes: Sequence[ImageShape], bank: Bank, calibration: Calibration) -> list[ImageScore]:
        """One row per image, against the slice that speaks most for it.

        The rule: of the slices whose support covers the image and whose domain may be its own, the one with the largest
        p-value; so a real image of any of these domains is flagged at most at the asked rate. Where there is none, the largest
        p-value of all slices, and ``in_support`` is false.
        """
        terms = self.terms(found.vectors, found.counts, bank.slices)
        scores = torch.stack([self.statistic.score(part) for part in terms], 1).cpu().numpy()
        p_values = np.stack([part.p_values(scores[:, at]) for at, part in enumerate(calibration.slices)], 1)
        covered: Bool[np.ndarray, "images slices"] = np.array(
            [[part.support.covers(shape) for part in calibration.slices] for shape in shapes]
        )
        if bank.router is not None:
            columns = [bank.router.domains.index(domain_of(part.domain)) for part in bank.slices]
            covered &= bank.router.plausible(found.embeddings)[:, columns]
        supported = [bool(row.any()) for row in covered]
        # Of equal p-values the one with the smallest score: both speak for the image.
        rank = p_values - 1e-9 * (scores.argsort(1).argsort(1))
        best = np.where(covered | ~covered.any(axis=1, keepdims=True), rank, -np.inf).argmax(1).tolist()
        return [
            ImageScore(
                score=float(scores[i, at]),
                mmd2=float(terms[at].mmd2[i]),
                cross_term=float(terms[at].cross[i]),
                self_term=float(terms[at].self_term[i]),
                top_k=float(terms[at].top_k[i]),
                top_patch=int(terms[at].top_patch[i]),
                patches=found.counts[i],
                p_value=float(p_values[i, at]),
                domain=bank.slices[at].domain,
                in_support=supported[i],
            )
            for i, at in enumerate(best)
        ]


def scorer_digest(
    backbone_record: Mapping[str, object],
    backbone: nn.Module,
    crops: CropPlan,
    signature: PatchSignature | None,
    statistic: Statistic,
    sigma: float | None,
) -> str:
    """sha256 over all that changes a score: algorithm, backbone and weights, preprocessing, PFS, statistic."""
    return digest_of(
        {
            "algorithm": ALGORITHM,
            "backbone": dict(backbone_record),
            "backbone_weights": tensors_digest(backbone.state_dict()),
            "crops": [crops.size, crops.most, crops.quality],
            "pfs": None if signature is None else tensors_digest(signature.state_dict()),
            "statistic": {"terms": dict(statistic.terms), "k": statistic.k},
            "sigma": sigma,
        }
    )
