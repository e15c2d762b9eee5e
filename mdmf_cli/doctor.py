"""`mdmf doctor`: what works here and what does not."""

import os
import platform
from collections.abc import Callable
from importlib.metadata import version

import torch
from rich.console import Console

from mdmf_core.errors import MdmfError
from tasks.scorers import device_label, load_kit
from tasks.shards import list_shards
from tasks.stray_parts import not_landed
from tasks.warehouse import connect, parts_folder

_PACKAGES = ("mdmf", "prefect", "torch", "timm", "duckdb", "fsspec", "s3fs", "pillow", "pandas", "pyarrow")


def examine(
    console: Console, source: str | None, scorer: str, bank: str, warehouse: str | None, device: str, storage_block: str | None
) -> bool:
    """Prints one line per check; True when all of them pass."""

    def versions() -> str:
        return ", ".join(f"{name} {version(name)}" for name in _PACKAGES)

    def machine() -> str:
        gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return f"Python {platform.python_version()}, {os.cpu_count()} cores, GPUs: {', '.join(gpus) or 'none'}"

    def scoring() -> str:
        kit = load_kit(scorer, bank, device, 1, 1, storage_block)
        return (
            f"scorer {kit.scorer.name} {kit.scorer.scorer_id[:16]} on {device_label(kit.scorer)}; bank {kit.bank.name} "
            f"{kit.bank.bank_id[:16]}, {len(kit.bank.members)} images, {kit.bank.points} points; calibration "
            f"{kit.calibration.calibration_id[:16]}, {kit.calibration.images} images, budgets from "
            f"{kit.calibration.smallest_budget:.4f}"
        )

    def storage() -> str:
        shards = list_shards(source or "", 1000, storage_block)
        return f"{len(shards)} shards at {source}, {sum(max(shard.size_bytes, 0) for shard in shards) / 1e6:.1f} MB"

    def results() -> str:
        path = warehouse or ""
        with connect(path, read_only=True) as connection:
            ((complete, others, scored),) = connection.execute(
                "SELECT count(*) FILTER (state = 'complete'), count(*) FILTER (state <> 'complete'), "
                "coalesce(sum(scored), 0)::BIGINT FROM accounting"
            ).fetchall()
            ((running,),) = connection.execute("SELECT count(*) FROM runs WHERE state = 'running'").fetchall()
            parts = not_landed(connection, parts_folder(path))
        return f"{complete} shards, {scored} images scored in {path}" + "".join(
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
            console.print(f"[red]wrong[/] {name}: {str(error).replace('[', chr(92) + '[')}", highlight=False, soft_wrap=True)
    return healthy
