"""The command `mdmf sql` runs queries, which cannot change the warehouse."""

from typing import Annotated, Literal

import typer

from mdmf_cli.console import WarehouseOption, plain_errors, print_rows
from mdmf_core.errors import MdmfError

Format = Literal["table", "csv", "json"]


def sql(
    sql: Annotated[str, typer.Argument(metavar="QUERY", help='For example "SELECT key, score, p_value FROM flagged(0.05)"')],
    warehouse: WarehouseOption = "warehouse.duckdb",
    format: Annotated[Format, typer.Option(help="How the result is printed; json gives one object a line.")] = "table",
    parts: Annotated[
        bool, typer.Option("--parts", help="Ask what the newest run has finished, without opening the warehouse.")
    ] = False,
    as_of: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Of a lake: as this run left it, or a snapshot's number."),
    ] = None,
) -> None:
    """Run a query: SELECT, COPY (SELECT ...) TO a file, EXPLAIN. No query can change the warehouse."""
    import duckdb

    from tasks.warehouse.parts_view import connect_parts
    from tasks.warehouse.questions import answer, json_lines
    from tasks.warehouse.warehouse import Warehouse

    with plain_errors():
        if parts and as_of is not None:
            raise MdmfError("--parts asks what is not landed yet, --as-of what was: name one of the two")
        try:
            where = Warehouse.at(warehouse)
            with connect_parts(where) if parts else where.connect(read_only=True, as_of=as_of) as connection:
                if format == "json":
                    for line in json_lines(connection, sql):
                        typer.echo(line)
                    return
                table = answer(connection, sql)
        except duckdb.Error as error:
            raise MdmfError(str(error)) from error
    if format == "table":
        print_rows(table.to_dict("records"), [str(name) for name in table.columns])
    else:
        typer.echo(table.to_csv(index=False), nl=False)
