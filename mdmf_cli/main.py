"""`mdmf`: the application, its environment and its commands; each command stands in the file of its room.

One rule says what a command calls. A command that scores, trains or builds runs its flow, in this process: it wants Prefect's
progress, retries and record. A command that only reads, copies or tidies what is there calls the function that the flow of its
name calls too, and never starts Prefect, so that it answers at once. `reap` belongs to the first kind, since it marks runs in
Prefect.
"""

import os

# The in-process runs need no account, no telemetry and no network beyond the source.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
# Prefect's own server listens on loopback, which a proxy cannot reach.
_direct = ",".join(filter(None, [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "127.0.0.1,localhost"]))
os.environ["no_proxy"] = os.environ["NO_PROXY"] = _direct
# Prefect gives its own server 20 s to start, which a busy or slow machine does not make.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")

import typer

from mdmf_cli.banks import bank_app
from mdmf_cli.console import Panel
from mdmf_cli.curate import curate, reap, rescore, retry
from mdmf_cli.demo import demo
from mdmf_cli.doctor import doctor
from mdmf_cli.keeplists import export, reshard
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


app.command(rich_help_panel=Panel.LOOK)(doctor)
app.command(rich_help_panel=Panel.LOOK)(demo)
app.command(rich_help_panel=Panel.SCORE)(curate)
app.command(rich_help_panel=Panel.SCORE)(rescore)
app.command(rich_help_panel=Panel.SCORE)(retry)
app.command(rich_help_panel=Panel.USE)(sql)
app.command(rich_help_panel=Panel.USE)(report)
app.command(rich_help_panel=Panel.USE)(export)
app.command(rich_help_panel=Panel.USE)(reshard)
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
