"""The command `mdmf doctor` checks what works on this machine and what does not."""

import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from mdmf_cli.console import Block, Device, ScorerOption, WeightsOption, console, escaped, plain_errors
from mdmf_core.errors import MdmfError

_PACKAGES = ("mdmf", "prefect", "torch", "timm", "duckdb", "fsspec", "s3fs", "pillow", "pandas", "pyarrow")


def doctor(
    source: Annotated[
        str | None, typer.Option(help="Also list the shards of this source, to check access to its storage.")
    ] = None,
    scorer: ScorerOption = "default",
    bank: Annotated[str, typer.Option(help="The scorer's own bank (default), or the directory of another one.")] = "default",
    warehouse: Annotated[str | None, typer.Option(help="Also open this warehouse and count what it holds.")] = None,
    weights: WeightsOption = None,
    device: Device = "auto",
    storage_block: Block = None,
    speed: Annotated[
        bool, typer.Option(help="Also measure every stage for about a minute: which one is the limit, and what to change.")
    ] = False,
) -> None:
    """Check this machine: versions, device, scorer and bank digests, storage, warehouse. Status 1 if something is wrong."""
    if not examine(console, source, scorer, bank, warehouse, device, storage_block):
        raise typer.Exit(1)
    if speed:
        with plain_errors():
            print_speed(console, source, scorer, bank, device, storage_block)


def examine(
    console: Console, source: str | None, scorer: str, bank: str, warehouse: str | None, device: str, storage_block: str | None
) -> bool:
    """Prints one line for each check; True when all of them pass."""
    import torch

    from tasks.collections.listing import list_shards
    from tasks.maintenance.stray_parts import not_landed
    from tasks.scoring.loading import device_label, load_setup
    from tasks.warehouse.warehouse import Warehouse

    def versions() -> str:
        return ", ".join(f"{name} {version(name)}" for name in _PACKAGES)

    def machine() -> str:
        gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return f"Python {platform.python_version()}, {os.cpu_count()} cores, GPUs: {', '.join(gpus) or 'none'}"

    def scoring() -> str:
        setup = load_setup(scorer, bank, device, 1, 1, storage_block)
        return (
            f"scorer {setup.scorer.name} {setup.scorer.scorer_id[:16]} on {device_label(setup.scorer)}; bank {setup.bank.name} "
            f"{setup.bank.bank_id[:16]}, {len(setup.bank.members)} images, {setup.bank.points} points; calibration "
            f"{setup.calibration.calibration_id[:16]}, {setup.calibration.images} images, budgets from "
            f"{setup.calibration.smallest_budget:.4f}"
        )

    def storage() -> str:
        shards = list_shards(source or "", 1000, storage_block)
        return f"{len(shards)} shards at {source}, {sum(max(shard.size_bytes, 0) for shard in shards) / 1e6:.1f} MB"

    def results() -> str:
        place = Warehouse.at(warehouse or "")
        with place.connect(read_only=True) as connection:
            ((complete, others, scored),) = connection.execute(
                "SELECT count(*) FILTER (state = 'complete'), count(*) FILTER (state <> 'complete'), "
                "coalesce(sum(scored), 0)::BIGINT FROM accounting"
            ).fetchall()
            ((running,),) = connection.execute("SELECT count(*) FROM runs WHERE state = 'running'").fetchall()
            parts = not_landed(connection, place.parts)
        return f"{complete} shards, {scored} images scored in {place}" + "".join(
            f"; {count} {what}"
            for count, what in (
                (others, "shards deferred or failed (mdmf sql \"FROM accounting WHERE state <> 'complete'\")"),
                (len(parts), "parts that are not landed (the next run of their source does; mdmf verify says what they are)"),
                (running, "runs without an end: at work, or dead (mdmf reap closes dead ones)"),
            )
            if count
        )

    checks: list[tuple[str, Callable[[], str]]] = [("versions", versions), ("machine", machine), ("scoring", scoring)]
    checks += [("storage", storage)] * (source is not None) + [("warehouse", results)] * (warehouse is not None)
    healthy = True
    for name, check in checks:
        try:
            console.print(f"[green]ok[/]    {name}: {check()}", highlight=False, soft_wrap=True)
        except (MdmfError, ValueError) as error:
            healthy = False
            console.print(f"[red]wrong[/] {name}: {escaped(str(error))}", highlight=False, soft_wrap=True)
    return healthy


SAMPLES = "samples/laion-mini/*.tar"
SECONDS = 3.0  # for each figure: about a minute together


def print_speed(
    console: Console,
    source: str | None,
    scorer: str,
    bank: str,
    device: str,
    storage_block: str | None,
    seconds: float = SECONDS,
) -> None:
    """Measures every stage and prints a table, the slowest stage, and what to change.

    Args:
        source: whose images and whose storage; None = the samples in the working folder, from this machine's disk.
        seconds: for each figure.
    """
    from mdmf_cli.speed_advice import changes
    from mdmf_core.scoring.slowest_stage import limit_of
    from tasks.scoring.loading import device_label, load_setup
    from tasks.scoring.speed import measure

    setup = load_setup(scorer, bank, device, 0, 0, storage_block)
    with console.status("measuring") as status:
        rates = measure(source or SAMPLES, setup, seconds, storage_block, lambda text: status.update(f"measuring: {text}"))
    limit = limit_of(rates)
    best = max(rates.backbone, key=lambda size: rates.backbone[size])
    batches = ", ".join(f"{size}: {rate:.0f}" for size, rate in rates.backbone.items())
    measured = {
        "read": f"{rates.read:.1f} MB/s from {source or SAMPLES}, {rates.bytes_per_image / 1000:.0f} kB an image",
        "decode": f"{rates.decode_one:.0f} images/s by one child, {rates.decode_all:.0f} by {rates.decoders}",
        "backbone": f"by images in a batch: {batches}; best {best}",
        "score": "statistics against the bank, p-value, row",
        "land": "shards of 10,000 rows into a new warehouse",
    }
    table = Table("stage", "images/s alone", "measured", title=f"{setup.scorer.name} on {device_label(setup.scorer)}")
    for stage, rate in limit.rates.items():
        table.add_row(stage, f"{rate:,.0f}", measured[stage], style="bold red" if stage == limit.stage else None)
    console.print(table)
    how = "the stages run beside each other" if rates.on_gpu else "decoding, backbone and statistics share its cores"
    console.print(
        f"limit: [bold]{limit.stage}[/]; all stages together about {limit.images_per_second:,.0f} images/s: {how}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    for change in changes(limit, rates):
        console.print(f"* {change}", highlight=False, soft_wrap=True)
