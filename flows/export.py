"""The flows `export` and `reshard` turn decisions into the files that a training run reads."""

from typing import Annotated

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from mdmf_core.choices import FileFormat, Uid, Unsure, Which
from tasks.keeplists import steps
from tasks.keeplists.export import Exported, ExportSettings
from tasks.keeplists.reshard import Resharded
from tasks.keeplists.selection import Selection


@flow(name="export")
def export(
    out: str,
    warehouse: str = "warehouse.duckdb",
    which: Which = "kept",
    budget: Annotated[float, Field(gt=0, lt=1)] = 0.05,
    unsure: Unsure = "keep",
    keep_excluded: tuple[str, ...] = (),
    where: str | None = None,
    sql: str | None = None,
    formats: tuple[FileFormat, ...] = ("parquet",),
    uid: Uid = "sidecar",
    storage_block: str | None = None,
) -> Exported:
    """Writes a keep-list that names scorer, bank, calibration and query.

    Args:
        out: new directory, local or s3://; `{time}` in it becomes the UTC time.
        which: macro that chooses: kept, flagged, unsure or surely at the budget, or discoveries at that rate.
        unsure: whether `kept` takes in the images that no slice of the bank speaks for.
        keep_excluded: reasons for which members without a score are kept all the same; their bytes must have been decoded.
        where: condition over `scored` that the chosen images must meet too.
        sql: query for `shard_url` and `key`, or `image_id`, that chooses in place of `which`.
        formats: beside the Parquet file: csv, datacomp (sorted `u8,u8` uids).
        uid: what DataComp's list holds: the uid of the image's json or key, or the warehouse's own id.
    """
    selection = Selection(which=which, budget=budget, unsure=unsure, keep_excluded=keep_excluded, where=where, sql=sql)
    settings = ExportSettings(
        warehouse=warehouse, out=out, selection=selection, formats=formats, uid=uid, storage_block=storage_block
    )
    found = steps.export(settings)
    create_markdown_artifact(key="keep-list", description=found.directory, markdown=found.markdown())
    get_run_logger().info("%d images of %d shards in %s", found.rows, found.shards, found.directory)
    return found


@flow(name="reshard")
def reshard(
    keep_list: str,
    out: str,
    shards_of: Annotated[int, Field(ge=1)] | None = None,
    warehouse: str | None = None,
    workers: Annotated[int, Field(ge=1)] = 4,
    storage_block: str | None = None,
) -> Resharded:
    """Copies the kept samples, byte for byte with all their files, into new shards; a rerun goes on where it stopped.

    Args:
        keep_list: directory that `export` wrote.
        shards_of: samples in a new shard, about; None = one new shard for each old one, under its name.
        warehouse: refuse the keep-list unless it was made by the scorer, bank and calibration that this one shows.
        workers: shards copied at a time.
    """
    found = steps.reshard(keep_list, out, shards_of, warehouse, workers, storage_block)
    get_run_logger().info("%d samples in %d shards, %d there before", found.samples, found.shards, found.already_there)
    return found
