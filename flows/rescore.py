"""The flow `rescore` scores kept signatures with another bank or calibration, without the backbone."""

import uuid

from prefect import flow, get_run_logger, runtime

from tasks.parts.leases import owner
from tasks.runs.rescore import Rescored, RescoreSettings
from tasks.runs.rescore import rescore as score_again


@flow(name="rescore")
def rescore(
    bank: str = "@production",
    warehouse: str = "warehouse.duckdb",
    calibration: str | None = None,
    scorer: str = "default",
    promote: bool = False,
    device: str = "auto",
    storage_block: str | None = None,
) -> Rescored:
    """Scores every shard whose signatures were kept with another bank, and adds the rows beside the old ones.

    Args:
        bank: `name@3`, `name`, `@alias` in the registry, or a directory.
        calibration: number in the registry or file; None = the newest of the bank, or the one promoted with the alias.
        promote: make it the one that the views show.
    """
    settings = RescoreSettings(
        warehouse=warehouse, bank=bank, calibration=calibration, scorer=scorer, promote=promote, device=device,
        storage_block=storage_block,
    )  # fmt: skip
    run_id = str(runtime.flow_run.id or uuid.uuid4())
    with owner(settings.where.leases, run_id) as name:
        found = score_again(settings, run_id, name)
    get_run_logger().info(
        "%d images of %d shards in %.1f s; %d shards were complete before, %d have no kept signatures",
        found.images, found.shards, found.seconds, found.already_complete, found.without_signatures,
    )  # fmt: skip
    return found
