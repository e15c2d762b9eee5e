"""The flow `retry` tries members and shards again that got no score for a reason that may have passed."""

from prefect import flow, runtime
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from mdmf_core.choices import EngineName
from tasks.runs import steps
from tasks.runs.execution import CurateResult, carry_out
from tasks.runs.retry import PASSING
from tasks.runs.settings import CurateSettings
from tasks.warehouse.warehouse import Warehouse


def _run_name() -> str:
    return f"retry {', '.join(runtime.flow_run.parameters['reasons'])}"[:200]


@flow(name="retry", flow_run_name=_run_name)
def retry(
    reasons: tuple[str, ...] = PASSING,
    warehouse: str = "warehouse.duckdb",
    scorer: str = "default",
    bank: str = "default",
    calibration: str | None = None,
    force: bool = False,
    shards_per_task: PositiveInt = 4,
    batch_images: NonNegativeInt = 0,
    decode_threads: NonNegativeInt = 0,
    device: str = "auto",
    compile: bool = False,
    storage_block: str | None = None,
    engine: EngineName = "threads",
    engine_address: str | None = None,
    num_cpus: NonNegativeInt = 0,
    num_gpus: NonNegativeFloat = 0.0,
) -> CurateResult:
    """Reads only the members that were excluded for these reasons, and whole shards that were deferred or failed for them.

    Args:
        reasons: of members (see `excluded`), or the class before the colon of a shard's reason (see `accounting`): storage,
            unfinished, killed, error, corrupt.
        warehouse: path of the DuckDB file.
        scorer: as in `curate`; rows under other scorers, banks and calibrations stay as they are.
        bank: as in `curate`.
        calibration: as in `curate`.
        force: also reasons that are permanent, such as undecodable: for a new version of a decoder.
        shards_per_task: shards of one task.
        batch_images: images in one pass through the backbone; 0 = as many as pay off and fit. Fewer when memory runs out.
        decode_threads: 0 = one per core that the backbone leaves free.
        device: auto, cpu, cuda or cuda:N.
        compile: have torch compile the backbone, with CUDA graphs on CUDA; pays off from some thousand images on.
        storage_block: name of a Prefect Secret block with fsspec options.
        engine: as in `curate`, with its address and resources.

    Raises:
        MdmfError: an unknown or permanent reason, or nothing could be read again.
    """
    asked = CurateSettings.model_validate(locals() | {"source": ", ".join(reasons)})
    Warehouse.at(warehouse).require()
    settings = asked.resolved()
    return carry_out(settings, lambda run_id: steps.plan_retry(settings, reasons, force, run_id))
