"""The settings of a curate run."""

from typing import Annotated

from pydantic import BaseModel, Field

from tasks.runs.engines import Engine, absolute
from tasks.scoring.loading import load_setup, resolve_bank
from tasks.scoring.scoring_setup import ScoringSetup
from tasks.warehouse.warehouse import Warehouse


class CurateSettings(BaseModel):
    """What a curate run does. Nothing here changes a score but scorer and bank, which every row names."""

    source: str
    warehouse: str
    scorer: str
    bank: str
    calibration: str | None
    keep_signatures: Annotated[float, Field(ge=0, le=1)]
    shards_per_task: Annotated[int, Field(ge=1)]
    images_per_slice: Annotated[int, Field(ge=1)]
    max_shards: Annotated[int, Field(ge=1)] | None
    batch_images: Annotated[int, Field(ge=0)]
    decode_threads: Annotated[int, Field(ge=0)]
    device: str
    compile: bool
    storage_block: str | None
    promote: bool
    engine: Engine = Engine()

    @property
    def where(self) -> Warehouse:
        return Warehouse.at(self.warehouse)

    def setup(self) -> ScoringSetup:
        return load_setup(
            self.scorer, self.bank, self.device, self.batch_images, self.decode_threads, self.storage_block, self.calibration,
            self.keep_signatures, self.compile, self.engine.cores,
        )  # fmt: skip

    def resolved(self) -> "CurateSettings":
        """With the directory that a bank's name or alias means now, so that a promotion halfway changes nothing.

        For workers elsewhere, paths are absolute.
        """
        bank, calibration = resolve_bank(self.where, self.scorer, self.bank, self.calibration)
        scorer, warehouse = self.scorer, self.warehouse
        if self.engine.elsewhere:
            scorer, bank, calibration = absolute(scorer), absolute(bank), calibration and absolute(calibration)
            warehouse = self.where.spelled
        return self.model_copy(update={"warehouse": warehouse, "scorer": scorer, "bank": bank, "calibration": calibration})
