"""A conformal calibration turns scores into p-values by real images that neither training nor the bank has seen."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import beta

from mdmf_core.banks.bank import Bank
from mdmf_core.banks.domains import Support
from mdmf_core.digests import digest_of
from mdmf_core.errors import ArtifactError

CARD = "calibration.json"
BUDGETS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


@dataclass(frozen=True)
class CalibrationSlice:
    """A calibration slice holds the scores of held-out real images of one slice of a bank."""

    domain: str
    scores: tuple[float, ...]  # ascending
    support: Support
    sha256s: tuple[str, ...]  # of the images, so that overlap with a bank can be refused

    def __post_init__(self) -> None:
        if not self.scores or not all(math.isfinite(score) for score in self.scores):
            raise ValueError("a calibration needs at least one real image, and finite scores")
        if list(self.scores) != sorted(self.scores):
            raise ValueError("calibration scores must be sorted, ascending")

    @property
    def smallest_budget(self) -> float:
        """1 / (n + 1): the smallest p-value, so the smallest false-positive rate that can be asked for."""
        return 1.0 / (len(self.scores) + 1)

    def p_values(self, scores: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """(1 + #{calibration scores >= s}) / (n + 1), in (0, 1]; small = unlike the real images.

        Raises:
            ValueError: a score that is not a number, which would rank above all others.
        """
        if np.isnan(scores).any():
            raise ValueError("a score is not a number: no p-value follows from it")
        at_least = len(self.scores) - np.searchsorted(np.asarray(self.scores), scores, side="left")
        result: Float[np.ndarray, " n"] = (1.0 + at_least) / (len(self.scores) + 1.0)
        return result


@dataclass(frozen=True)
class Calibration:
    """One calibration slice for every slice of a bank, in the bank's order."""

    scorer_id: str
    bank_id: str
    slices: tuple[CalibrationSlice, ...]

    @property
    def calibration_id(self) -> str:
        return digest_of(asdict(self))

    @property
    def images(self) -> int:
        """Counts the real images of all slices together."""
        return sum(len(part.scores) for part in self.slices)

    @property
    def smallest_budget(self) -> float:
        """The smallest false-positive rate that can be asked of the slice with the most images."""
        return min(part.smallest_budget for part in self.slices)

    def file(self) -> bytes:
        """Returns the calibration as the content of ``calibration.json``."""
        record = {"calibration_id": self.calibration_id, "images": self.images} | asdict(self)
        return json.dumps(record, indent=1).encode() + b"\n"


def calibration_from_file(data: bytes) -> Calibration:
    """Reads ``calibration.json`` and checks its digest.

    Raises:
        ArtifactError: it is damaged, or not a calibration.
    """
    try:
        record: dict[str, Any] = json.loads(data)
        calibration = Calibration(
            scorer_id=record["scorer_id"],
            bank_id=record["bank_id"],
            slices=tuple(
                CalibrationSlice(part["domain"], tuple(part["scores"]), _support(part["support"]), tuple(part["sha256s"]))
                for part in record["slices"]
            ),
        )
        stated = record["calibration_id"]
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"not a calibration: {type(error).__name__}: {error}") from error
    if calibration.calibration_id != stated:
        raise ArtifactError(f"calibration digests to {calibration.calibration_id}, its card says {stated}")
    return calibration


def _support(record: dict[str, Any]) -> Support:
    resized = record["resized"]
    return Support(**record | {"resized": None if resized is None else tuple(resized)})


@dataclass(frozen=True)
class FalsePositiveBudget:
    """A budget says what asking for a false-positive rate gives: p <= fpr flags real images at a Beta distributed rate."""

    fpr: float
    rank: int  # floor(fpr (n + 1)): the rule flags what scores above all but rank - 1 of the calibration images
    low: float  # 90 % range of the realised rate
    high: float
    sure_line: float | None  # the p-value line whose realised rate is at most fpr with 95 % confidence; None = n is too small


def budget(images: int, fpr: float) -> FalsePositiveBudget:
    """Computes the false-positive rate that ``p <= fpr`` gives, over draws of ``images`` images: Beta(k, n + 1 - k).

    Vovk 2012, Conditional validity of inductive conformal predictors. Scores are taken to have no ties.

    Raises:
        ValueError: a budget outside (0, 1), or one that ``images`` cannot reach, with the number that it takes.
    """
    if not 0 < fpr < 1:
        raise ValueError(f"a false-positive budget lies between 0 and 1, got {fpr}")
    rank = math.floor(fpr * (images + 1) + 1e-9)
    if rank < 1:
        raise ValueError(
            f"budget {fpr} cannot be kept by {images} calibration images; it takes {math.ceil(1 / fpr - 1e-9) - 1}"
        )
    low, high = beta.ppf([0.05, 0.95], rank, images + 1 - rank)
    ranks = np.arange(1, rank + 1)
    kept = ranks[beta.cdf(fpr, ranks, images + 1 - ranks) >= 0.95]
    line = float(kept.max() / (images + 1)) if len(kept) else None
    return FalsePositiveBudget(fpr, rank, float(low), float(high), line)


def require_match(scorer_id: str, bank: Bank, calibration: Calibration) -> None:
    """Refuses a bank or calibration that was made for another scorer or bank.

    Raises:
        ArtifactError: naming both digests.
    """
    if bank.scorer_id != scorer_id:
        raise ArtifactError(
            f"bank {bank.name!r} was built with scorer {bank.scorer_id}, but the scorer in use is {scorer_id}. "
            "Build a bank with this scorer, or use the scorer that the bank was built with"
        )
    pair = (calibration.scorer_id, calibration.bank_id)
    if pair != (scorer_id, bank.bank_id):
        raise ArtifactError(
            f"the calibration was made for scorer {pair[0]} and bank {pair[1]}, but scorer {scorer_id} and bank "
            f"{bank.bank_id} are in use"
        )
    names = [part.domain for part in bank.slices], [part.domain for part in calibration.slices]
    if names[0] != names[1]:
        raise ArtifactError(f"bank {bank.name!r} has the slices {names[0]}, the calibration {names[1]}")


def require_disjoint(bank: Bank, sha256s: Sequence[str]) -> None:
    """Raises ArtifactError when a calibration image is also in the bank: its p-values would be too kind."""
    shared = {member.sha256 for member in bank.members} & set(sha256s)
    if shared:
        raise ArtifactError(f"{len(shared)} calibration images are also in bank {bank.name!r}, first {min(shared)}")
