"""`mdmf export` and `mdmf reshard`: keep-lists and new shards."""

from typing import Annotated, Any, get_args

import typer

from mdmf_cli.console import Block, WarehouseOption, plain_errors, say
from mdmf_core.choices import FileFormat, Uid, Unsure, Which


def export(
    out: Annotated[str, typer.Argument(help="New directory, local or s3://; {time} in it becomes the UTC time.")],
    warehouse: WarehouseOption = "warehouse.duckdb",
    which: Annotated[Which, typer.Option(help="Macro that chooses, as in kept(0.05).")] = "kept",
    budget: Annotated[float, typer.Option(help="False-positive budget; the rate of --which discoveries.")] = 0.05,
    unsure: Annotated[
        Unsure, typer.Option(help="Whether --which kept takes in the images that no slice of the bank speaks for.")
    ] = "keep",
    keep_excluded: Annotated[
        list[str] | None, typer.Option(help="Reason for which members without a score are kept; may be given again.")
    ] = None,
    where: Annotated[str | None, typer.Option(help='Condition over `scored`, such as "width >= 256".')] = None,
    sql: Annotated[str | None, typer.Option(help="Query for shard_url and key, or image_id, in place of --which.")] = None,
    format: Annotated[str, typer.Option(help="parquet,csv,datacomp: files to write; Parquet always.")] = "parquet",
    uid: Annotated[Uid, typer.Option(help="DataComp's uid: of the image's json or key, or the warehouse's id.")] = "sidecar",
    storage_block: Block = None,
) -> None:
    """Write a keep-list: which images to train on, by which scorer, bank, calibration and query."""
    from tasks.keeplists.export import ExportSettings
    from tasks.keeplists.export import export as write
    from tasks.keeplists.selection import Selection

    formats: Any = tuple(name.strip() for name in format.split(","))
    with plain_errors():
        unknown = set(formats) - set(get_args(FileFormat))
        if unknown:
            raise ValueError(f"--format {', '.join(sorted(unknown))}: it takes {', '.join(get_args(FileFormat))}")
        if not 0 < budget < 1:
            raise ValueError(f"--budget {budget}: it lies between 0 and 1")
        selection = Selection(
            which=which,
            budget=budget,
            unsure=unsure,
            keep_excluded=tuple(keep_excluded or ()),
            where=where,
            sql=sql,
        )
        found = write(
            ExportSettings(
                warehouse=warehouse, out=out, selection=selection, formats=formats, uid=uid, storage_block=storage_block
            )
        )
    say(found.line())
    say(found.meaning)
    say(f"next:   mdmf reshard {found.directory} OUT")


def reshard(
    keep_list: Annotated[str, typer.Argument(help="Directory that `mdmf export` wrote.")],
    out: Annotated[str, typer.Argument(help="New directory, local or s3://; or that of a run that was stopped, to go on.")],
    shards_of: Annotated[
        int | None, typer.Option(min=1, help="Samples in a new shard, about; without it every shard keeps its name.")
    ] = None,
    warehouse: Annotated[
        str | None, typer.Option(help="Refuse a keep-list by another scorer, bank or calibration than this one shows.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Shards copied at a time.")] = 4,
    storage_block: Block = None,
) -> None:
    """Copy the images of a keep-list into new shards, byte for byte, with all files of each sample. Run it again to go on."""
    from tasks.keeplists.reshard import reshard as copy
    from tasks.warehouse.warehouse import Warehouse

    with plain_errors():
        found = copy(keep_list, out, shards_of, Warehouse.at(warehouse) if warehouse else None, workers, storage_block)
    say(f"{found.samples} samples in {found.shards} shards of {out}; {found.already_there} shards were there before")
