"""What one process scores with."""

from dataclasses import dataclass

from mdmf_core.banks import Bank
from mdmf_core.calibration import Calibration
from mdmf_core.scoring import Scorer
from tasks.parts import WorkKey


@dataclass(frozen=True)
class ScoringKit:
    """What one process scores with."""

    scorer: Scorer
    bank: Bank
    calibration: Calibration
    bank_url: str  # directory, or the name of a bundled one
    calibration_url: str | None  # None = the one in the bank's directory
    batch_images: int
    decode_threads: int
    keep_signatures: float = 0.0  # share of shards whose signatures are kept

    @property
    def key(self) -> WorkKey:
        return WorkKey(self.scorer.scorer_id, self.bank.bank_id, self.calibration.calibration_id)
