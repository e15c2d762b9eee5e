"""From score to p-value: conformal calibration on real images that neither training nor the bank has seen."""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from mdmf_core.banks import Bank
from mdmf_core.digests import digest_of
from mdmf_core.errors import ArtifactError

CARD = "calibration.json"


@dataclass(frozen=True)
class Support:
    """The range of the calibration images; an image outside it has a p-value that nothing backs."""

    side_min: int  # shorter side, pixels
    side_max: int  # longer side, pixels
    quality_min: int  # JPEG
    lossless: bool  # whether PNG or WebP was calibrated at all

    def covers(self, width: int, height: int, quality: int | None) -> bool:
        """Whether an image of this size and JPEG quality (None = not a JPEG) lies in the range."""
        sized = self.side_min <= min(width, height) and max(width, height) <= self.side_max
        return sized and (self.lossless if quality is None else quality >= self.quality_min)


@dataclass(frozen=True)
class Calibration:
    """Scores of held-out real images of one domain, for one scorer and bank."""

    scorer_id: str
    bank_id: str
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
    def calibration_id(self) -> str:
        return digest_of(asdict(self))

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

    def file(self) -> bytes:
        """The calibration as ``calibration.json``."""
        record = {"calibration_id": self.calibration_id, "images": len(self.scores)} | asdict(self)
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
            domain=record["domain"],
            scores=tuple(record["scores"]),
            support=Support(**record["support"]),
            sha256s=tuple(record["sha256s"]),
        )
        stated = record["calibration_id"]
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"not a calibration: {type(error).__name__}: {error}") from error
    if calibration.calibration_id != stated:
        raise ArtifactError(f"calibration digests to {calibration.calibration_id}, its card says {stated}")
    return calibration


def require_match(scorer_id: str, bank: Bank, calibration: Calibration) -> None:
    """Refuses a bank or calibration that was made for another scorer or bank.

    Raises:
        ArtifactError: naming both digests.
    """
    if bank.scorer_id != scorer_id:
        raise ArtifactError(
            f"bank {bank.name!r} was built with scorer {bank.scorer_id}, but the scorer in use is {scorer_id}. "
            "Build a bank with this scorer: mdmf bank build SOURCE --scorer ... --out DIR"
        )
    pair = (calibration.scorer_id, calibration.bank_id)
    if pair != (scorer_id, bank.bank_id):
        raise ArtifactError(
            f"the calibration was made for scorer {pair[0]} and bank {pair[1]}, but scorer {scorer_id} and bank "
            f"{bank.bank_id} are in use"
        )


def require_disjoint(bank: Bank, sha256s: tuple[str, ...]) -> None:
    """Raises ArtifactError when a calibration image is also in the bank: its p-values would be too kind."""
    shared = {member.sha256 for member in bank.members} & set(sha256s)
    if shared:
        raise ArtifactError(f"{len(shared)} calibration images are also in bank {bank.name!r}, first {min(shared)}")
