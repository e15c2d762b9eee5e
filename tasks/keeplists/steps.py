"""The steps of the export flows as Prefect tasks."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.keeplists.export import Exported, ExportSettings
from tasks.keeplists.export import export as write
from tasks.keeplists.reshard import Resharded
from tasks.keeplists.reshard import reshard as copy
from tasks.warehouse.warehouse import Warehouse


@task(cache_policy=NO_CACHE, task_run_name="keep-list {settings.out}")
def export(settings: ExportSettings) -> Exported:
    """Asks the warehouse and writes the keep-list."""
    return write(settings)


@task(cache_policy=NO_CACHE, task_run_name="reshard {out}", retries=2, retry_delay_seconds=30)
def reshard(
    keep_list: str, out: str, shards_of: int | None, warehouse: str | None, workers: int, storage_block: str | None
) -> Resharded:
    """Copies the kept samples; a retry goes on where the store failed."""
    return copy(keep_list, out, shards_of, Warehouse.at(warehouse) if warehouse else None, workers, storage_block)
