"""What a run scores with: its lineage, which any process knows, and what the process that scores has loaded."""

from dataclasses import dataclass

from mdmf_core.banks.bank import Bank
from mdmf_core.banks.calibration import Calibration
from mdmf_core.images.crops import CropPlan
from mdmf_core.scoring.scorer import Scorer, ScorerCard
from mdmf_core.signatures.passes import Passes
from tasks.parts.outcome import WorkKey


@dataclass(frozen=True)
class Lineage:
    """Scorer, bank and calibration of a run, known without loading a network."""

    scorer: ScorerCard
    bank: Bank
    calibration: Calibration
    bank_url: str  # directory, or the name of a bundled one
    calibration_url: str | None  # None = the one in the bank's directory

    @property
    def key(self) -> WorkKey:
        """The digests under which everything that is scored with these three is kept."""
        return WorkKey(self.scorer.scorer_id, self.bank.bank_id, self.calibration.calibration_id)


@dataclass(frozen=True)
class ScoringSetup(Lineage):
    """A lineage whose scorer is loaded on a device, with how one process goes about scoring."""

    scorer: Scorer
    batch_crops: int  # of a batch on its way through the stages
    passes: Passes  # how many of them the backbone takes at once
    backbones: int  # batches in it side by side
    decode_threads: int
    keep_signatures: float = 0.0  # share of shards whose signatures are kept


def sizes(plan: CropPlan, images: int, cuda: bool) -> tuple[int, Passes]:
    """Chooses how many crops a batch has, and how many the first pass through the backbone takes.

    Args:
        images: with all their crops, in one pass; 0 = automatic: batches of so many bytes that copying them is cheap, and
            passes that grow up to a batch on CUDA. A processor's caches want small ones, of some MiB for all cores together;
            where images have many small crops, four of them make a batch, since what is done once a batch would count.
    """
    if images:
        return images * plan.most, Passes(images * plan.most)
    if not cuda:
        crops = max(plan.most, 5 * 2**18 // (3 * plan.size**2))
        return crops if plan.most == 1 else 4 * crops, Passes(crops)
    batch = max(plan.most, min(1024, 1 << (64 * 2**20 // (3 * plan.size**2)).bit_length() - 1))
    return batch, Passes(min(64, batch), batch)
