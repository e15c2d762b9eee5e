"""A scorer turns the crops of an image into one score, with every term that the score is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from mdmf_core.banks.bank import Bank, Slice, domain_of
from mdmf_core.banks.calibration import Calibration
from mdmf_core.banks.domains import ShapeColumns
from mdmf_core.digests import digest_of, tensors_digest
from mdmf_core.images.crops import CropPlan
from mdmf_core.mmd.terms import PatchTerms, Stack, stack_terms
from mdmf_core.records import ImageShape
from mdmf_core.signatures.passes import Passes
from mdmf_core.signatures.pfs import PatchSignature

ALGORITHM = "mdmf-2"  # raise when a change in this package changes a score
TERMS = ("mmd2", "cross", "self_term", "top_k")


@dataclass(frozen=True)
class Statistic:
    """The statistic behind the headline score is a fixed linear combination of the terms, chosen once on validation data.

    ``{"mmd2": 1.0}`` is plain MMD^2; ``{"cross": -1.0}`` is distance from the bank alone. Higher = more likely generated.
    """

    terms: Mapping[str, float]
    k: int = 8  # patches in the top-k term

    def __post_init__(self) -> None:
        unknown = sorted(set(self.terms) - set(TERMS))
        if unknown or not self.terms or self.k < 1:
            raise ValueError(f"a statistic combines {', '.join(TERMS)} with k >= 1, got {dict(self.terms)}, k={self.k}")

    def score(self, terms: PatchTerms) -> Float[Tensor, "images ..."]:
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
class Loaded:
    """Crops of some images on the scorer's device."""

    crops: UInt8[Tensor, "n 3 size size"]  # image i owns the next counts[i]
    counts: list[int]


@dataclass(frozen=True)
class Signatures:
    """Signatures are what is left of images when the backbone has run: all that a bank needs to score them."""

    vectors: Float[Tensor, "patches d"]  # PFS; image i owns the next counts[i] rows
    counts: list[int]
    embeddings: Float[Tensor, "images e"]  # mean patch token


@dataclass(frozen=True)
class ScorerCard:
    """What is known of a scorer without its network, which takes seconds and perhaps a GPU to load.

    Args:
        backbone_record: everything about the backbone that changes a number, but its weights.
        sigma: the kernel bandwidth learned with the PFS; None = each bank brings its own.
    """

    name: str
    scorer_id: str
    backbone_record: Mapping[str, object]
    crops: CropPlan
    statistic: Statistic
    sigma: float | None


@dataclass(frozen=True)
class Scorer(ScorerCard):
    """A scorer is a backbone, crops, PFS and statistic under one digest. ``backbone`` maps uint8 crops to patch tokens."""

    backbone: nn.Module
    signature: PatchSignature | None
    device: torch.device
    autocast: torch.dtype | None

    def load(self, images: Sequence[UInt8[np.ndarray, "n 3 size size"]]) -> Loaded:
        """Copies images, given as their crops, to the scorer's device; the copy is over when this returns.

        On CUDA it goes through pinned memory on a stream of its own, so that it runs beside the backbone.
        """
        batch = torch.from_numpy(np.concatenate(images))
        counts = [len(image) for image in images]
        if self.device.type != "cuda":
            return Loaded(batch, counts)
        with torch.cuda.stream(self._copies):
            batch = batch.pin_memory().to(self.device, non_blocking=True)
        self._copies.synchronize()
        return Loaded(batch, counts)

    @cached_property
    def _copies(self) -> torch.cuda.Stream:
        """Returns the one stream of all copies, since the allocator keeps memory apart by stream."""
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def extract(self, images: Sequence[UInt8[np.ndarray, "n 3 size size"]], passes: Passes | None = None) -> Signatures:
        """Runs the backbone once over images that are given as their crops; float32, on the scorer's device."""
        return self.describe(self.load(images), passes)

    @torch.inference_mode()
    def describe(self, loaded: Loaded, passes: Passes | None = None) -> Signatures:
        """Runs the backbone once over images on the device. On CUDA the device has finished when this returns.

        Args:
            passes: how many crops at once; None = all.

        Raises:
            MdmfError: not even one crop fits into the device's memory.
        """
        passes = passes or Passes(len(loaded.crops))
        if loaded.crops.device.type == "cuda":  # made on another stream, which must not take the memory back meanwhile
            loaded.crops.record_stream(torch.cuda.current_stream(self.device))
        vectors, means = passes.run(self._described, loaded.crops)
        if loaded.crops.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        per_image = torch.segment_reduce(means, "mean", lengths=torch.tensor(loaded.counts, device=means.device))
        return Signatures(vectors.flatten(0, 1), [count * vectors.shape[1] for count in loaded.counts], per_image)

    def _described(self, crops: UInt8[Tensor, "n 3 size size"]) -> tuple[Float[Tensor, "n k d"], Float[Tensor, "n e"]]:
        """Returns the signatures of one pass, and the mean token of every crop."""
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            tokens = self.backbone(crops)
        tokens = tokens.float()
        flat: Tensor = tokens.flatten(0, 1)
        vectors = flat if self.signature is None else self.signature(flat)
        return vectors.unflatten(0, tokens.shape[:2]), tokens.mean(1)

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
    def terms(self, signatures: Float[Tensor, "patches d"], counts: list[int], slices: Sequence[Slice]) -> PatchTerms:
        """Computes the MMD terms of images that own ``counts`` patches each, against every slice: [images, slices]."""
        return stack_terms(signatures.to(self.device), counts, _stacked(tuple(slices), self.device), self.statistic.k)

    def score_against(self, part: Slice, signatures: Float[Tensor, "patches d"]) -> float:
        """Computes the score of one image against one slice, whatever other slices its bank has."""
        return float(self.statistic.score(self.terms(signatures, [len(signatures)], (part,)))[0, 0])

    def score(
        self, signatures: Signatures, shapes: Sequence[ImageShape], bank: Bank, calibration: Calibration
    ) -> list[ImageScore]:
        """Scores images, one row each, against one slice of the bank each.

        The rule that chooses it: of the slices whose support covers the image and whose domain may be its own, the one with the
        largest p-value; so a real image of any of these domains is flagged at most at the asked rate. Where there is none, the
        largest p-value of all slices, and ``in_support`` is false.
        """
        terms = self.terms(signatures.vectors, signatures.counts, bank.slices)
        scores = self.statistic.score(terms).cpu().numpy()
        p_values = np.stack([part.p_values(scores[:, at]) for at, part in enumerate(calibration.slices)], 1)
        asked = ShapeColumns.of(shapes)
        covered: Bool[np.ndarray, "images slices"] = np.stack([part.support.covering(asked) for part in calibration.slices], 1)
        if bank.router is not None:
            columns = [bank.router.domains.index(domain_of(part.domain)) for part in bank.slices]
            covered &= bank.router.plausible(signatures.embeddings)[:, columns]
        supported: Bool[np.ndarray, " images"] = np.asarray(covered.any(axis=1))
        # Of equal p-values the one with the smallest score: both speak for the image.
        rank = p_values - 1e-9 * (scores.argsort(1).argsort(1))
        best = np.where(covered | ~supported[:, None], rank, -np.inf).argmax(1)
        images = np.arange(len(best))

        def of_best(name: str) -> list[float]:
            values: list[float] = getattr(terms, name).cpu().numpy()[images, best].tolist()
            return values

        domains = [part.domain for part in bank.slices]
        columns_of_rows = (
            scores[images, best].tolist(), *map(of_best, ("mmd2", "cross", "self_term", "top_k", "top_patch")),
            signatures.counts, p_values[images, best].tolist(), map(domains.__getitem__, best), supported.tolist(),
        )  # fmt: skip
        return list(map(ImageScore, *columns_of_rows))


@lru_cache(maxsize=4)
def _stacked(slices: tuple[Slice, ...], device: torch.device) -> Stack:
    """Stacks slices on a device and keeps the stack, which would else be copied there for every batch."""
    return Stack.of([(part.points, part.weights, part.bank_term) for part in slices], slices[0].sigma, device)


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
