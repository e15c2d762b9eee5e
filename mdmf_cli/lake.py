"""`mdmf warehouse`: a lake kept in shape, its snapshots, and rows moved between a lake and a file."""

from typing import Annotated

import typer

from mdmf_cli.console import Warehouse, plain_errors, print_rows, say

warehouse_app = typer.Typer(help="Lakes, which many machines write: compaction, snapshots, copies.", no_args_is_help=True)


@warehouse_app.command("compact")
def compact(
    warehouse: Warehouse,
    keep_days: Annotated[float, typer.Option(help="Days for which a lake can be asked as of an earlier run.")] = 30.0,
) -> None:
    """Merge a lake's small files and remove what only older snapshots need. May run beside writers."""
    from tasks.compaction import compact as tidy

    with plain_errors():
        found = tidy(warehouse, keep_days)
    say(found.words)


@warehouse_app.command("copy")
def copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="A DuckDB file or ducklake:...")],
    target: Annotated[str, typer.Argument(metavar="TO", help="Where no warehouse is yet.")],
) -> None:
    """Copy every row to another warehouse of either kind, and compare. The parts stay where they are."""
    from tasks.copying import copy_warehouse

    with plain_errors():
        found = copy_warehouse(source, target)
    say(f"{target}: {found.rows} rows, content {found.content_digest}")


@warehouse_app.command("snapshots")
def snapshots(warehouse: Warehouse) -> None:
    """List the runs that a lake can be asked as of: mdmf sql --as-of RUN."""
    from mdmf_core.errors import WarehouseError
    from tasks.attach import is_lake
    from tasks.snapshots import run_snapshots
    from tasks.warehouse import opened

    with plain_errors(), opened(warehouse, read_only=True) as connection:
        if not is_lake(connection):
            raise WarehouseError(f"{warehouse} is an embedded warehouse, which keeps no snapshots; a lake does (ducklake:...)")
        found = run_snapshots(connection)
    print_rows([run._asdict() for run in found], ["run_id", "snapshot", "at"])
