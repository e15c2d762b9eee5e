"""`mdmf curate`, `rescore`, `retry` and `reap`: runs that score images, and what to do when some of them failed."""

from shlex import quote
from typing import Annotated

import typer

from mdmf_cli.console import (
    Block,
    Cpus,
    Device,
    EngineAddress,
    EngineOption,
    Gpus,
    ScorerOption,
    WarehouseOption,
    WeightsOption,
    console,
    plain_errors,
    print_scored,
    say,
)


def curate(
    source: Annotated[
        str, typer.Argument(help="Shards by path, {00000..00099}.tar range or glob, or a folder; local or s3://")
    ],
    warehouse: WarehouseOption = "warehouse.duckdb",
    scorer: ScorerOption = "default",
    bank: Annotated[str, typer.Option(help="default, a bank directory, or name@3, name, @alias in the registry.")] = "default",
    calibration: Annotated[
        str | None, typer.Option(help="Number in the registry, or a file; the bank's own by default.")
    ] = None,
    keep_signatures: Annotated[
        float, typer.Option(min=0, max=1, help="Share of shards whose signatures are kept, so that rescore needs no backbone.")
    ] = 0.0,
    shards_per_task: Annotated[int, typer.Option(min=1, help="Shards scored and committed together.")] = 4,
    images_per_slice: Annotated[int, typer.Option(min=1, help="Images per shard when the source is a folder.")] = 1000,
    max_shards: Annotated[int | None, typer.Option(min=1, help="Stop after this many; the next run goes on.")] = None,
    batch_images: Annotated[int, typer.Option(min=0, help="Images in one pass through the backbone; 0 = automatic.")] = 0,
    decode_threads: Annotated[int, typer.Option(min=0, help="0 = one per core that the backbone leaves free.")] = 0,
    weights: WeightsOption = None,
    device: Device = "auto",
    compile: Annotated[bool, typer.Option(help="Have torch compile the backbone; pays off on long runs.")] = False,
    storage_block: Block = None,
    promote: Annotated[bool, typer.Option(help="Make this scorer and bank the ones that the views show.")] = False,
    engine: EngineOption = "threads",
    engine_address: EngineAddress = None,
    num_cpus: Cpus = 0,
    num_gpus: Gpus = 0.0,
) -> None:
    """Score a collection of images, in this process. Run the command again to go on where it stopped."""
    from flows.curate import curate as flow
    from tasks.storage.filesystems import refuse_credentials

    with plain_errors():
        refuse_credentials(source)  # before Prefect records the parameters of a run
        result = flow(
            source=source, warehouse=warehouse, scorer=scorer, bank=bank, calibration=calibration,
            keep_signatures=keep_signatures, shards_per_task=shards_per_task, images_per_slice=images_per_slice,
            max_shards=max_shards, batch_images=batch_images, decode_threads=decode_threads, device=device,
            compile=compile, storage_block=storage_block, promote=promote, engine=engine, engine_address=engine_address,
            num_cpus=num_cpus, num_gpus=num_gpus,
        )  # fmt: skip
    print_scored(result)
    if not result.promoted:
        console.print("The views show another scorer or bank; query the table `scores`, or run again with --promote.")
    if result.report:
        console.print(f"report: {result.report}", highlight=False, soft_wrap=True)
    say(f'next:   mdmf sql "SELECT * FROM flagged(0.05)" --warehouse {quote(warehouse)}')


def rescore(
    bank: Annotated[str, typer.Option(help="name@3, name, @alias in the registry, or a bank directory.")] = "@production",
    warehouse: WarehouseOption = "warehouse.duckdb",
    calibration: Annotated[
        str | None, typer.Option(help="Number in the registry, or a file; the bank's newest by default.")
    ] = None,
    scorer: ScorerOption = "default",
    promote: Annotated[bool, typer.Option(help="Make it the bank that the views show.")] = False,
    weights: WeightsOption = None,
    device: Device = "auto",
    storage_block: Block = None,
) -> None:
    """Score again with another bank or calibration, from kept signatures. No image is read."""
    from flows.rescore import rescore as flow

    with plain_errors():
        found = flow(
            bank=bank, warehouse=warehouse, calibration=calibration, scorer=scorer, promote=promote, device=device,
            storage_block=storage_block,
        )  # fmt: skip
    console.print(
        f"{found.images} images of {found.shards} shards in {found.seconds:.1f} s; {found.already_complete} shards complete "
        f"before, {found.without_signatures} without kept signatures (curate those with --bank {bank})",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def retry(
    reason: Annotated[
        list[str],
        typer.Option(
            help="Of members: storage, decoder_crashed, decoder_timeout; of shards: storage, unfinished, killed, error"
        ),
    ],
    warehouse: WarehouseOption = "warehouse.duckdb",
    scorer: ScorerOption = "default",
    bank: Annotated[str, typer.Option(help="As in curate; rows under other banks stay as they are.")] = "default",
    calibration: Annotated[str | None, typer.Option(help="As in curate.")] = None,
    force: Annotated[bool, typer.Option(help="Also permanent reasons: undecodable, truncated, corrupt and so on.")] = False,
    shards_per_task: Annotated[int, typer.Option(min=1, help="Shards of one task.")] = 4,
    batch_images: Annotated[int, typer.Option(min=0, help="Images in one pass through the backbone; 0 = automatic.")] = 0,
    weights: WeightsOption = None,
    device: Device = "auto",
    storage_block: Block = None,
    engine: EngineOption = "threads",
    engine_address: EngineAddress = None,
    num_cpus: Cpus = 0,
    num_gpus: Gpus = 0.0,
) -> None:
    """Try images and shards again that got no score for these reasons. Only their rows change."""
    from flows.retry import retry as flow

    with plain_errors():
        result = flow(
            reasons=tuple(reason), warehouse=warehouse, scorer=scorer, bank=bank, calibration=calibration, force=force,
            shards_per_task=shards_per_task, batch_images=batch_images, device=device, storage_block=storage_block,
            engine=engine, engine_address=engine_address, num_cpus=num_cpus, num_gpus=num_gpus,
        )  # fmt: skip
    print_scored(result)


def reap(warehouse: WarehouseOption = "warehouse.duckdb") -> None:
    """Mark runs whose process died as crashed, in the warehouse and in Prefect. Their finished shards are kept."""
    from flows.reaper import reaper as flow

    with plain_errors():
        runs = flow(warehouse=warehouse)
    say(f"{len(runs)} dead runs" + "".join(f"\n{run}" for run in runs))
