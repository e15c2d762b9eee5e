"""`mdmf`: every command of the project."""

import os
from typing import Annotated

# The in-process runs need no account, no telemetry and no network beyond the source.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
# Prefect gives its own server 20 s to start, which a busy or slow machine does not make.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")

import typer

from mdmf_cli import keeplists as keep_lists
from mdmf_cli.banks import bank_app
from mdmf_cli.console import (
    Block,
    Device,
    Panel,
    ScorerOption,
    WeightsOption,
    console,
    plain_errors,
)
from mdmf_cli.curate import curate, reap, rescore, retry
from mdmf_cli.maintenance import safety_app, warehouse_app
from mdmf_cli.query import sql
from mdmf_cli.report import report
from mdmf_cli.reviews import review_app
from mdmf_cli.training import evaluate, train
from mdmf_cli.weights import weights_app

app = typer.Typer(
    help="Find likely AI-generated images in training corpora: one row per image in DuckDB, filtered with SQL.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.command(rich_help_panel=Panel.LOOK)
def doctor(
    source: Annotated[str | None, typer.Option(help="Also list this source, to check storage access.")] = None,
    scorer: ScorerOption = "default",
    bank: Annotated[str, typer.Option(help="default, or a bank directory.")] = "default",
    warehouse: Annotated[str | None, typer.Option(help="Also open this warehouse.")] = None,
    weights: WeightsOption = None,
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
        from mdmf_cli.doctor import print_speed

        with plain_errors():
            print_speed(console, source, scorer, bank, device, storage_block)


@app.command(rich_help_panel=Panel.LOOK)
def demo(keep_going: Annotated[bool, typer.Option(help="Leave server and worker running, to look at the UI.")] = False) -> None:
    """Run the main job end to end on the bundled shards: server, worker, deployment, results. Then stop what was started."""
    from mdmf_cli.demo import run_demo

    with plain_errors():
        run_demo(console, keep_going)


app.command(rich_help_panel=Panel.SCORE)(curate)
app.command(rich_help_panel=Panel.SCORE)(rescore)
app.command(rich_help_panel=Panel.SCORE)(retry)
app.command(rich_help_panel=Panel.USE)(sql)
app.command(rich_help_panel=Panel.USE)(report)
app.command(rich_help_panel=Panel.USE)(keep_lists.export)
app.command(rich_help_panel=Panel.USE)(keep_lists.reshard)
app.command(rich_help_panel=Panel.MAKE)(train)
app.command(rich_help_panel=Panel.MAKE)(evaluate)
app.command(rich_help_panel=Panel.WHOLE)(reap)
app.add_typer(safety_app)
app.add_typer(warehouse_app, name="warehouse", rich_help_panel=Panel.WHOLE)
app.add_typer(review_app, name="review", rich_help_panel=Panel.USE)
app.add_typer(bank_app, name="bank", rich_help_panel=Panel.MAKE)
app.add_typer(weights_app, name="weights", rich_help_panel=Panel.LOOK)

if __name__ == "__main__":
    app()
