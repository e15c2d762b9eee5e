"""The settings of runs that score: what a flow is passed, and what follows from it before anything is planned."""

from dataclasses import asdict
from typing import Annotated, Any

from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, model_validator

from mdmf_core.errors import ArtifactError
from tasks.parts.outcome import WorkKey
from tasks.runs.engines import Engine, absolute
from tasks.scoring.loading import device_label, load_lineage, load_setup, resolve_bank
from tasks.scoring.scoring_setup import Lineage, ScoringSetup
from tasks.warehouse.warehouse import Warehouse

Share = Annotated[float, Field(ge=0, le=1)]
_ENGINE = {"engine_address": "address", "num_cpus": "num_cpus", "num_gpus": "num_gpus"}


class Resources(BaseModel):
    """What a run may use of its machines. Nothing here changes a score."""

    device: str = "auto"  # auto, cpu, cuda or cuda:N
    compile: bool = False  # the backbone, by torch
    batch_images: NonNegativeInt = 0  # images in one pass through the backbone; 0 = as many as pay off and fit
    decode_threads: NonNegativeInt = 0  # 0 = one per core that the backbone leaves free
    engine: Engine = Engine()

    @model_validator(mode="before")
    @classmethod
    def _engine_of_flat_parameters(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Gathers the engine's options, which flows take one by one since Prefect's forms and stored runs name them so."""
        if not isinstance(given.get("engine"), str):
            return given
        options = {option: given[name] for name, option in _ENGINE.items() if name in given}
        return given | {"engine": {"name": given["engine"], **options}}


class CurateSettings(Resources):
    """The settings of a run as the user gave them. A flow makes them from its own parameters, ``locals()``."""

    source: str
    warehouse: str
    scorer: str
    bank: str
    calibration: str | None
    keep_signatures: Share = 0.0
    shards_per_task: PositiveInt
    images_per_slice: PositiveInt = 1000
    max_shards: PositiveInt | None = None
    storage_block: str | None
    promote: bool = False

    @property
    def where(self) -> Warehouse:
        return Warehouse.at(self.warehouse)

    def resolved(self) -> "ResolvedSettings":
        """Returns these settings with the directories that names and aliases of banks mean now, and with the work key.

        A promotion halfway through the run changes nothing. For workers on other machines, paths are absolute.

        Raises:
            ArtifactError: a scorer, bank or calibration that is not there, is damaged, or belongs to another one.
        """
        bank, calibration = resolve_bank(self.where, self.scorer, self.bank, self.calibration)
        scorer, warehouse = self.scorer, self.warehouse
        if self.engine.elsewhere:
            scorer, bank, calibration = absolute(scorer), absolute(bank), calibration and absolute(calibration)
            warehouse = self.where.spelled
        paths = {"warehouse": warehouse, "scorer": scorer, "bank": bank, "calibration": calibration}
        key = load_lineage(scorer, bank, calibration, self.storage_block).key
        return ResolvedSettings(**self.model_dump() | paths, key=key)


class ResolvedSettings(CurateSettings):
    """Settings whose references are resolved. Only ``setup`` loads a network, where images are scored or maps drawn."""

    key: WorkKey

    @property
    def lineage(self) -> Lineage:
        """Loads scorer card, bank and calibration without building a network."""
        return load_lineage(self.scorer, self.bank, self.calibration, self.storage_block)

    def setup(self) -> ScoringSetup:
        """Loads the scorer on its device, with bank and calibration.

        Raises:
            ArtifactError: weights that are not those of the key; both digests are named.
        """
        setup = load_setup(
            self.scorer, self.bank, self.device, self.batch_images, self.decode_threads, self.storage_block, self.calibration,
            self.keep_signatures, self.compile, self.engine.cores,
        )  # fmt: skip
        if setup.key != self.key:
            planned = asdict(self.key)
            digests = [f"{name} is {digest}, planned was {planned[name]}" for name, digest in asdict(setup.key).items()]
            raise ArtifactError(f"scorer {self.scorer} or bank {self.bank} is not the one of the plan: {'; '.join(digests)}")
        return setup

    def scored_on(self) -> str:
        """Says for the run's row which device scores: the one of this process, or what tasks of an engine are given.

        Where this process scores, the scorer is loaded for it, so that one that cannot be used leaves no row.
        """
        return self.engine.label() if self.engine.elsewhere else device_label(self.setup().scorer)
