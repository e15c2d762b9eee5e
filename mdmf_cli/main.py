"""`mdmf`: every command of the project."""

import os
from enum import StrEnum
from shlex import quote
from typing import Annotated

# The in-process runs need no account, no telemetry and no network beyond the source.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
# Prefect gives its own server 20 s to start, which a busy or slow machine does not make.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")

import typer

from mdmf_cli import export as keep_lists
from mdmf_cli.bank import bank_app
from mdmf_cli.console import (
    Block,
    Cpus,
    Device,
    EngineAddress,
    EngineChoice,
    EngineOption,
    Gpus,
    Panel,
    ScorerOption,
    Warehouse,
    console,
    plain_errors,
    print_rows,
    print_scored,
    say,
)
from mdmf_cli.lake import warehouse_app
from mdmf_cli.recovery import reap, retry
from mdmf_cli.review import review_app
from mdmf_cli.safety import safety_app
from mdmf_cli.train import evaluate, train
from mdmf_core.errors import MdmfError

app = typer.Typer(
    help="Find likely AI-generated images in training corpora: one row per image in DuckDB, filtered with SQL.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


class Format(StrEnum):
    table = "table"
    csv = "csv"
    json = "json"


@app.command(rich_help_panel=Panel.SCORE)
def curate(
    source: Annotated[
        str, typer.Argument(help="Shards by path, {00000..00099}.tar range or glob, or a folder; local or s3://")
    ],
    warehouse: Warehouse = "warehouse.duckdb",
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
    device: Device = "auto",
    compile: Annotated[bool, typer.Option(help="Have torch compile the backbone; pays off on long runs.")] = False,
    storage_block: Block = None,
    promote: Annotated[bool, typer.Option(help="Make this scorer and bank the ones that the views show.")] = False,
    engine: EngineOption = EngineChoice.threads,
    engine_address: EngineAddress = None,
    num_cpus: Cpus = 0,
    num_gpus: Gpus = 0.0,
) -> None:
    """Score a collection of images: the deployment's flow, in this process. Run it again to go on where it stopped."""
    from flows.curate import curate as flow
    from tasks.storage import refuse_credentials

    with plain_errors():
        refuse_credentials(source)  # before Prefect records the parameters of a run
        result = flow(
            source=source, warehouse=warehouse, scorer=scorer, bank=bank, calibration=calibration,
            keep_signatures=keep_signatures, shards_per_task=shards_per_task, images_per_slice=images_per_slice,
            max_shards=max_shards, batch_images=batch_images, decode_threads=decode_threads, device=device,
            compile=compile, storage_block=storage_block, promote=promote, engine=engine.value, engine_address=engine_address,
            num_cpus=num_cpus, num_gpus=num_gpus,
        )  # fmt: skip
    print_scored(result)
    if not result.promoted:
        console.print("The views show another scorer or bank; query the table `scores`, or run again with --promote.")
    if result.report:
        console.print(f"report: {result.report}", highlight=False, soft_wrap=True)
    say(f'next:   mdmf sql "SELECT * FROM flagged(0.05)" --warehouse {quote(warehouse)}')


@app.command(rich_help_panel=Panel.SCORE)
def rescore(
    bank: Annotated[str, typer.Option(help="name@3, name, @alias in the registry, or a bank directory.")] = "@production",
    warehouse: Warehouse = "warehouse.duckdb",
    calibration: Annotated[
        str | None, typer.Option(help="Number in the registry, or a file; the bank's newest by default.")
    ] = None,
    scorer: ScorerOption = "default",
    promote: Annotated[bool, typer.Option(help="Make it the bank that the views show.")] = False,
    device: Device = "auto",
    storage_block: Block = None,
) -> None:
    """Score again with another bank or calibration, from kept signatures: no image is read, no backbone runs."""
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


@app.command(rich_help_panel=Panel.USE)
def sql(
    sql: Annotated[str, typer.Argument(metavar="QUERY", help='For example "SELECT key, score, p_value FROM flagged(0.05)"')],
    warehouse: Warehouse = "warehouse.duckdb",
    format: Annotated[Format, typer.Option(help="How the result is printed.")] = Format.table,
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

    from tasks.parts_view import query_parts
    from tasks.warehouse import query

    with plain_errors():
        if parts and as_of is not None:
            raise MdmfError("--parts asks what is not landed yet, --as-of what was: name one of the two")
        try:
            frame = query_parts(warehouse, sql) if parts else query(warehouse, sql, as_of=as_of)
        except duckdb.Error as error:
            raise MdmfError(str(error)) from error
    if format is Format.table:
        print_rows(frame.to_dict("records"), [str(name) for name in frame.columns])
    elif format is Format.csv:
        typer.echo(frame.to_csv(index=False), nl=False)
    else:
        typer.echo(frame.to_json(orient="records", lines=True, date_format="iso"), nl=False)


@app.command(rich_help_panel=Panel.USE)
def report(
    warehouse: Warehouse = "warehouse.duckdb",
    out: Annotated[str | None, typer.Option(help="Folder, local or s3://; WAREHOUSE.report by default.")] = None,
    scorer: Annotated[str | None, typer.Option(help="For the evidence maps, if it no longer lies where the runs say.")] = None,
    bank: Annotated[str | None, typer.Option(help="Its directory, if it no longer lies where the registry says.")] = None,
    device: Device = "auto",
    storage_block: Block = None,
) -> None:
    """Write the report again: one folder that opens from disk or S3, without a server."""
    from tasks.report import load_evidence_kit, write_report

    with plain_errors():
        kit = load_evidence_kit(warehouse, scorer, bank, device, storage_block)
        page = write_report(warehouse, warehouse, storage_block, kit, out)
        if page is None:
            raise MdmfError(f"{warehouse} holds no shard that was scored or deferred yet")
    console.print(page, highlight=False, soft_wrap=True)


@app.command(rich_help_panel=Panel.LOOK)
def doctor(
    source: Annotated[str | None, typer.Option(help="Also list this source, to check storage access.")] = None,
    scorer: ScorerOption = "default",
    bank: Annotated[str, typer.Option(help="default, or a bank directory.")] = "default",
    warehouse: Annotated[str | None, typer.Option(help="Also open this warehouse.")] = None,
    device: Device = "auto",
    storage_block: Block = None,
    speed: Annotated[
        bool, typer.Option(help="Also measure every stage, about a minute: which is the limit, what to change.")
    ] = False,
) -> None:
    """Check this machine: versions, device, scorer and bank digests, storage, warehouse. Status 1 if something is wrong."""
    from mdmf_cli.doctor import examine

    if not examine(console, source, scorer, bank, warehouse, device, storage_block):
        raise typer.Exit(1)
    if speed:
        from mdmf_cli.speed import print_speed

        with plain_errors():
            print_speed(console, source, scorer, bank, device, storage_block)


@app.command(rich_help_panel=Panel.LOOK)
def demo(keep_going: Annotated[bool, typer.Option(help="Leave server and worker running, to look at the UI.")] = False) -> None:
    """Run the main job end to end on the bundled shards: server, worker, deployment, results. Then stop what was started."""
    from mdmf_cli.demo import run_demo

    with plain_errors():
        run_demo(console, keep_going)


app.command(rich_help_panel=Panel.SCORE)(retry)
app.command(rich_help_panel=Panel.USE)(keep_lists.export)
app.command(rich_help_panel=Panel.USE)(keep_lists.reshard)
app.command(rich_help_panel=Panel.MAKE)(train)
app.command(rich_help_panel=Panel.MAKE)(evaluate)
app.command(rich_help_panel=Panel.WHOLE)(reap)
app.add_typer(safety_app)
app.add_typer(warehouse_app, name="warehouse", rich_help_panel=Panel.WHOLE)
app.add_typer(review_app, name="review", rich_help_panel=Panel.USE)
app.add_typer(bank_app, name="bank", rich_help_panel=Panel.MAKE)

if __name__ == "__main__":
    app()
