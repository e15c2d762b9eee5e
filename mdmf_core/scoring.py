"""Scorers: pixels to one score per image, with every term that it is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mdmf_core.banks import Bank
from mdmf_core.calibration import Calibration
from mdmf_core.crops import CropPlan
from mdmf_core.digests import digest_of, tensors_digest
from mdmf_core.mmd import PatchTerms, patch_terms
from mdmf_core.pfs import PatchSignature

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
    def signatures(self, crops: UInt8[np.ndarray, "n 3 size size"]) -> Float[Tensor, "patches d"]:
        """PFS of every patch of every crop, crop by crop, float32, on the scorer's device."""
        batch = torch.from_numpy(crops)
        if self.device.type == "cuda":
            batch = batch.pin_memory().to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            tokens = self.backbone(batch)
        flat: Tensor = tokens.float().flatten(0, 1)
        return flat if self.signature is None else self.signature(flat)

    @torch.inference_mode()
    def terms(self, signatures: Float[Tensor, "patches d"], counts: list[int], bank: Bank) -> PatchTerms:
        """MMD terms of images that own ``counts`` patches each."""
        points, weights = bank.points.to(self.device), bank.weights.to(self.device)
        vectors = signatures.to(self.device)
        return patch_terms(vectors, counts, points, weights, bank.sigma, bank.bank_term, self.statistic.k)

    def score(
        self, images: Sequence[UInt8[np.ndarray, "n 3 size size"]], bank: Bank, calibration: Calibration
    ) -> list[ImageScore]:
        """Scores a batch of images, each given as its crops."""
        signatures = self.signatures(np.concatenate(images))
        per_crop = len(signatures) // sum(len(crops) for crops in images)
        counts = [len(crops) * per_crop for crops in images]
        terms = self.terms(signatures, counts, bank)
        scores = self.statistic.score(terms).cpu().numpy()
        columns = (
            scores, terms.mmd2.cpu().numpy(), terms.cross.cpu().numpy(), terms.self_term.cpu().numpy(),
            terms.top_k.cpu().numpy(), terms.top_patch.cpu().numpy(), counts, calibration.p_values(scores),
        )  # fmt: skip
        return [
            ImageScore(float(s), float(m), float(c), float(e), float(t), int(p), int(n), float(v))
            for s, m, c, e, t, p, n, v in zip(*columns, strict=True)
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
