"""The commands `mdmf verify`, `backup`, `restore`, `migrate` and `warehouse ...` keep a warehouse whole."""

from typing import Annotated

import typer
from rich.progress import Progress

from mdmf_cli.console import Panel, WarehouseOption, errors, plain_errors, print_rows, say

safety_app = typer.Typer()
Force = Annotated[bool, typer.Option(help="Also where a file of that name exists.")]


@safety_app.command(rich_help_panel=Panel.WHOLE)
def verify(
    warehouse: WarehouseOption = "warehouse.duckdb",
    repair: Annotated[bool, typer.Option(help="Mend what can be mended; while no run is writing.")] = False,
) -> None:
    """Recount every row, hash every part, compare the two. Status 1 if something is wrong and not repaired."""
    from tasks.maintenance.content_digest import content_digest
    from tasks.maintenance.verify import verify as examine
    from tasks.warehouse.warehouse import Warehouse

    with plain_errors(), Progress(console=errors, transient=True) as bar:
        task = bar.add_task("shards")
        found = examine(Warehouse.at(warehouse), repair, lambda done, shards: bar.update(task, completed=done, total=shards))
    wrong = [finding for finding in found if not finding.repaired and not finding.note]
    if found:
        rows = [
            {"check": f.check, "state": "note" if f.note and not f.repaired else "repaired" if f.repaired else
             "repairable" if f.repairable else "wrong", "subject": f.subject, "detail": f.detail}
            for f in found
        ]  # fmt: skip
        print_rows(rows, ["check", "state", "subject", "detail"])
    if not any(finding.check == "schema" for finding in wrong):
        with plain_errors(), Warehouse.at(warehouse).connect(read_only=True) as connection:
            say(f"content {content_digest(connection)}")
    if wrong:
        say(f"findings that remain: {len(wrong)}; --repair mends {sum(finding.repairable for finding in wrong)} of them")
        raise typer.Exit(1)
    say("everything adds up")


@safety_app.command(rich_help_panel=Panel.WHOLE)
def backup(
    out: Annotated[str, typer.Argument(help="File to write, for example warehouse-backup.duckdb")],
    warehouse: WarehouseOption = "warehouse.duckdb",
    force: Force = False,
) -> None:
    """Copy the warehouse into one file, row by row compared. Waits while a run writes; the parts are not copied."""
    from tasks.maintenance.backup import backup as copy
    from tasks.warehouse.warehouse import Warehouse

    with plain_errors():
        copied = copy(Warehouse.at(warehouse), out, force)
    say(f"{copied.path}: {copied.size_bytes / 1e6:.1f} MB, content {copied.content_digest}")


@safety_app.command(rich_help_panel=Panel.WHOLE)
def restore(
    saved: Annotated[str, typer.Argument(metavar="BACKUP", help="What `mdmf backup` wrote.")],
    warehouse: WarehouseOption = "warehouse.duckdb",
    force: Annotated[bool, typer.Option(help="Where a warehouse is; it stays as WAREHOUSE.before-restore.")] = False,
) -> None:
    """Put a backup in the place of the warehouse, after reading it whole."""
    from tasks.maintenance.backup import restore as put_back
    from tasks.warehouse.warehouse import Warehouse

    with plain_errors():
        found = put_back(saved, Warehouse.at(warehouse), force)
    say(f"{found.copied.path}: {found.copied.size_bytes / 1e6:.1f} MB, content {found.copied.content_digest}")
    if found.earlier:
        say(f"what was there before: {found.earlier}")
    if found.missing:
        say(f"it is of an earlier version; next: mdmf migrate --warehouse {warehouse}")
    if found.not_landed:
        say(f"{len(found.not_landed)} parts are newer than the backup; next: mdmf verify --repair --warehouse {warehouse}")


@safety_app.command(rich_help_panel=Panel.WHOLE)
def migrate(warehouse: WarehouseOption = "warehouse.duckdb") -> None:
    """Bring a warehouse of an earlier version up to this one. Curate does so by itself."""
    from tasks.warehouse.migrations import migrate as bring_up
    from tasks.warehouse.warehouse import Warehouse

    with plain_errors():
        where = Warehouse.at(warehouse)
        with where.connect(read_only=True, any_version=True):  # an error, not a new file, where there is none
            pass
        with where.connect() as connection:
            taken = bring_up(connection)
    say(f"{warehouse}: {', '.join(taken) if taken else 'nothing to do'}")


warehouse_app = typer.Typer(help="Lakes, which many machines write: compaction, snapshots, copies.", no_args_is_help=True)


@warehouse_app.command("compact")
def compact(
    warehouse: WarehouseOption,
    keep_days: Annotated[float, typer.Option(help="Days for which a lake can be asked as of an earlier run.")] = 30.0,
) -> None:
    """Merge a lake's small files and remove what only older snapshots need. May run beside writers."""
    from tasks.maintenance.compaction import compact as tidy
    from tasks.warehouse.warehouse import Warehouse

    with plain_errors():
        found = tidy(Warehouse.at(warehouse), keep_days)
    say(found.words)


@warehouse_app.command("copy")
def copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="A DuckDB file or ducklake:...")],
    target: Annotated[str, typer.Argument(metavar="TO", help="Where no warehouse is yet.")],
) -> None:
    """Copy every row to another warehouse of either kind, and compare. The parts stay where they are."""
    from tasks.maintenance.copy_warehouse import copy_warehouse
    from tasks.warehouse.warehouse import Warehouse

    with plain_errors():
        found = copy_warehouse(Warehouse.at(source), Warehouse.at(target))
    say(f"{target}: {found.rows} rows, content {found.content_digest}")


@warehouse_app.command("snapshots")
def snapshots(warehouse: WarehouseOption) -> None:
    """List the runs whose state of a lake can still be queried, with mdmf sql --as-of RUN."""
    from mdmf_core.errors import WarehouseError
    from tasks.warehouse.attach import is_lake
    from tasks.warehouse.snapshots import run_snapshots
    from tasks.warehouse.warehouse import Warehouse

    with plain_errors(), Warehouse.at(warehouse).connect(read_only=True, any_version=True) as connection:
        if not is_lake(connection):
            raise WarehouseError(f"{warehouse} is an embedded warehouse, which keeps no snapshots; a lake does (ducklake:...)")
        found = run_snapshots(connection)
    print_rows([run._asdict() for run in found], ["run_id", "snapshot", "at"])
