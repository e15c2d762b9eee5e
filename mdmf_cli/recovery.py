"""`mdmf retry` and `mdmf reap`: what failed for a reason that has passed, and runs that died."""

from typing import Annotated

import typer

from mdmf_cli.console import (
    Block,
    Cpus,
    Device,
    EngineAddress,
    EngineChoice,
    EngineOption,
    Gpus,
    ScorerOption,
    Warehouse,
    plain_errors,
    print_scored,
    say,
)


def retry(
    reason: Annotated[
        list[str],
        typer.Option(
            help="Of members: storage, decoder_crashed, decoder_timeout; of shards: storage, unfinished, killed, error"
        ),
    ],
    warehouse: Warehouse = "warehouse.duckdb",
    scorer: ScorerOption = "default",
    bank: Annotated[str, typer.Option(help="As in curate; rows under other banks stay as they are.")] = "default",
    calibration: Annotated[str | None, typer.Option(help="As in curate.")] = None,
    force: Annotated[bool, typer.Option(help="Also permanent reasons: undecodable, truncated, corrupt and so on.")] = False,
    shards_per_task: Annotated[int, typer.Option(min=1, help="Shards of one task.")] = 4,
    batch_images: Annotated[int, typer.Option(min=0, help="Images in one pass through the backbone; 0 = automatic.")] = 0,
    device: Device = "auto",
    storage_block: Block = None,
    engine: EngineOption = EngineChoice.threads,
    engine_address: EngineAddress = None,
    num_cpus: Cpus = 0,
    num_gpus: Gpus = 0.0,
) -> None:
    """Try again what got no score for these reasons: only those members are read, only their rows change."""
    from flows.retry import retry as flow

    with plain_errors():
        result = flow(
            reasons=tuple(reason), warehouse=warehouse, scorer=scorer, bank=bank, calibration=calibration, force=force,
            shards_per_task=shards_per_task, batch_images=batch_images, device=device, storage_block=storage_block,
            engine=engine.value, engine_address=engine_address, num_cpus=num_cpus, num_gpus=num_gpus,
        )  # fmt: skip
    print_scored(result)


def reap(warehouse: Warehouse = "warehouse.duckdb") -> None:
    """Mark runs whose process died as crashed, here and in Prefect. What they finished is kept."""
    from flows.reaper import reaper as flow

    with plain_errors():
        runs = flow(warehouse=warehouse)
    say(f"{len(runs)} dead runs" + "".join(f"\n{run}" for run in runs))
