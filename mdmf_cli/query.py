"""`mdmf sql`: questions to the warehouse, which they cannot change."""

from typing import Annotated, Literal

import typer

from mdmf_cli.console import WarehouseOption, plain_errors, print_rows
from mdmf_core.errors import MdmfError

Format = Literal["table", "csv", "json"]


def sql(
    sql: Annotated[str, typer.Argument(metavar="QUERY", help='For example "SELECT key, score, p_value FROM flagged(0.05)"')],
    warehouse: WarehouseOption = "warehouse.duckdb",
    format: Annotated[Format, typer.Option(help="How the result is printed.")] = "table",
    parts: Annotated[
        bool, typer.Option("--parts", help="Ask what the newest run has finished, without opening the warehouse.")
    ] = False,
    as_of: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Of a lake: as this run left it, or a snapshot's number."),
    ] = None,
) -> None:
    """Ask the warehouse: SELECT, COPY (SELECT ...) TO a file, EXPLAIN. Nothing in it can be changed."""
    import duckdb

    from tasks.warehouse.parts_view import query_parts
    from tasks.warehouse.questions import query
    from tasks.warehouse.warehouse import Warehouse

    with plain_errors():
        if parts and as_of is not None:
            raise MdmfError("--parts asks what is not landed yet, --as-of what was: name one of the two")
        try:
            frame = query_parts(Warehouse.at(warehouse), sql) if parts else query(Warehouse.at(warehouse), sql, as_of=as_of)
        except duckdb.Error as error:
            raise MdmfError(str(error)) from error
    if format == "table":
        print_rows(frame.to_dict("records"), [str(name) for name in frame.columns])
    elif format == "csv":
        typer.echo(frame.to_csv(index=False), nl=False)
    else:
        typer.echo(frame.to_json(orient="records", lines=True, date_format="iso"), nl=False)
