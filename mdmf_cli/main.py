"""`mdmf`: every command of the project."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any

# The in-process runs need no account, no telemetry and no network beyond the source.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")

import typer
from rich.console import Console
from rich.table import Table

from mdmf_core.errors import MdmfError

app = typer.Typer(
    help="Find likely AI-generated images in training corpora: one row per image in DuckDB, filtered with SQL.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
bank_app = typer.Typer(help="Reference banks: sets of real images that others are compared with.", no_args_is_help=True)
app.add_typer(bank_app, name="bank")
console = Console()
errors = Console(stderr=True)

Warehouse = Annotated[str, typer.Option(help="The DuckDB file that holds the results.")]
ScorerOption = Annotated[str, typer.Option(help="default, a scorer directory, or timm:MODEL?weights=FILE.safetensors")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")]
Block = Annotated[str | None, typer.Option(help="Prefect Secret block with fsspec options, in place of the AWS variables.")]


class Format(StrEnum):
    table = "table"
    csv = "csv"
    json = "json"


class Part(StrEnum):
    train = "train"
    val = "val"


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Errors that are the user's to mend end in one sentence and status 1, without a traceback."""
    try:
        yield
    except (MdmfError, ValueError) as error:
        errors.print(f"[bold red]error:[/] {_escaped(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")


@app.command()
def curate(
    source: Annotated[
        str, typer.Argument(help="Shards by path, {00000..00099}.tar range or glob, or a folder; local or s3://")
    ],
    warehouse: Warehouse = "warehouse.duckdb",
    scorer: ScorerOption = "default",
    bank: Annotated[str, typer.Option(help="default, or a bank directory built with the scorer.")] = "default",
    shards_per_task: Annotated[int, typer.Option(min=1, help="Shards scored and committed together.")] = 4,
    images_per_slice: Annotated[int, typer.Option(min=1, help="Images per shard when the source is a folder.")] = 1000,
    max_shards: Annotated[int | None, typer.Option(min=1, help="Stop after this many; the next run goes on.")] = None,
    batch_images: Annotated[int, typer.Option(min=1, help="Images in one pass through the backbone.")] = 32,
    decode_threads: Annotated[int, typer.Option(min=0, help="0 = one per core that the backbone leaves free.")] = 0,
    device: Device = "auto",
    storage_block: Block = None,
    promote: Annotated[bool, typer.Option(help="Make this scorer and bank the ones that the views show.")] = False,
) -> None:
    """Score a collection of images: the deployment's flow, in this process. Run it again to go on where it stopped."""
    from flows.curate import curate as flow

    with _plain_errors():
        result = flow(
            source=source, warehouse=warehouse, scorer=scorer, bank=bank, shards_per_task=shards_per_task,
            images_per_slice=images_per_slice, max_shards=max_shards, batch_images=batch_images,
            decode_threads=decode_threads, device=device, storage_block=storage_block, promote=promote,
        )  # fmt: skip
    console.print(
        f"{result.members} members = {result.scored} scored + {result.excluded} excluded; {result.complete} shards complete, "
        f"{result.already_complete} complete before, {result.deferred} deferred, {result.failed} failed",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    if not result.promoted:
        console.print("The views show another scorer or bank; query the table `scores`, or run again with --promote.")
    if result.report:
        console.print(f"report: {result.report}", highlight=False, soft_wrap=True)
    console.print(f'next:   mdmf sql "SELECT * FROM flagged(0.05)" --warehouse {warehouse}', highlight=False, soft_wrap=True)


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help='For example "SELECT key, score, p_value FROM flagged(0.05)"')],
    warehouse: Warehouse = "warehouse.duckdb",
    format: Annotated[Format, typer.Option(help="How the result is printed.")] = Format.table,
) -> None:
    """Ask the warehouse. Read-only."""
    import duckdb

    from tasks.warehouse import query as ask

    with _plain_errors():
        try:
            frame = ask(warehouse, query)
        except duckdb.Error as error:
            raise MdmfError(str(error)) from error
    if format is Format.table:
        print_rows(frame.to_dict("records"), [str(name) for name in frame.columns])
    elif format is Format.csv:
        typer.echo(frame.to_csv(index=False), nl=False)
    else:
        typer.echo(frame.to_json(orient="records", lines=True, date_format="iso"), nl=False)


def print_rows(rows: list[dict[Any, Any]], columns: list[str]) -> None:
    """A result as a table, numbers to four places."""
    table = Table(header_style="bold")
    for name in columns:
        numeric = bool(rows) and isinstance(rows[0][name], int | float)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_escaped(_cell(row[name])) for name in columns))
    console.print(table)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):  # pandas has nan for NULL in columns of text
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


@app.command()
def report(warehouse: Warehouse = "warehouse.duckdb", storage_block: Block = None) -> None:
    """Write the report page again."""
    from tasks.report import write_report

    with _plain_errors():
        path = write_report(warehouse, warehouse, storage_block)
        if path is None:
            raise MdmfError(f"{warehouse} holds no scored images yet")
    console.print(path, soft_wrap=True)


@app.command()
def doctor(
    source: Annotated[str | None, typer.Option(help="Also list this source, to check storage access.")] = None,
    scorer: ScorerOption = "default",
    bank: Annotated[str, typer.Option(help="default, or a bank directory.")] = "default",
    warehouse: Annotated[str | None, typer.Option(help="Also open this warehouse.")] = None,
    device: Device = "auto",
    storage_block: Block = None,
) -> None:
    """Check this machine: versions, device, scorer and bank digests, storage, warehouse. Status 1 if something is wrong."""
    from mdmf_cli.doctor import examine

    if not examine(console, source, scorer, bank, warehouse, device, storage_block):
        raise typer.Exit(1)


@app.command()
def demo(keep_going: Annotated[bool, typer.Option(help="Leave server and worker running, to look at the UI.")] = False) -> None:
    """Run the main job end to end on the bundled shards: server, worker, deployment, results. Then stop what was started."""
    from mdmf_cli.demo import run_demo

    with _plain_errors():
        run_demo(console, keep_going)


LABELLED = (
    "A .csv or .parquet manifest (columns label, group, url; optionally fold, domain), or a folder: real/<source>/ and "
    "generated/<generator>/, ForenSynths (<generator>/0_real|1_fake) or GenImage (<generator>/val/nature|ai). Local or s3://"
)
Groups = Annotated[int | None, typer.Option(min=1, help="Images used of every generator and real source.")]
Cache = Annotated[str, typer.Option(help="Folder for patch tokens; safe to delete.")]


@app.command()
def train(
    source: Annotated[str, typer.Argument(help=LABELLED)],
    out: Annotated[str, typer.Option(help="Scorer directory to write; must not exist.")],
    backbone: Annotated[
        str, typer.Option(help="forensic, timm:MODEL?weights=FILE&blocks=1&pool=32, or mdmf-dinov2-l14?weights=FILE")
    ] = "forensic",
    objective: Annotated[
        list[str] | None,
        typer.Option(help="Arm to try, may be given again: none, closed-form, mmd-d, mmd-mp, bce. All by default."),
    ] = None,
    statistic: Annotated[
        list[str] | None, typer.Option(help="Statistic to try, may be given again: mmd2, cross, top-k, fusion. All by default.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of every arm with a random part.")] = 3,
    folds: Annotated[int, typer.Option(min=3, help="Parts that whole generators and whole real sources are dealt to.")] = 3,
    variants: Annotated[int, typer.Option(min=1, help="Random histories of every image.")] = 4,
    regenerated_variants: Annotated[int, typer.Option(min=0, help="Regenerated versions of every real image; 0 = none.")] = 2,
    steps: Annotated[int, typer.Option(min=1, help="Gradient steps of an arm at most.")] = 300,
    points: Annotated[int, typer.Option(min=2, help="Points of the bank's coreset.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of folds, histories and training.")] = 2605,
    max_per_group: Groups = None,
    accept_split_formats: Annotated[bool, typer.Option(help="Go on when no file format occurs in both classes.")] = False,
    cache: Cache = ".mdmf/tokens",
    device: Device = "auto",
    storage_block: Block = None,
) -> None:
    """Train a scorer on labelled images and measure it on generators and real sources that it never saw."""
    from flows.train import train_pfs

    chosen: dict[str, Any] = {}
    if objective:
        chosen["objectives"] = tuple(objective)
    if statistic:
        chosen["statistics"] = tuple(statistic)
    with _plain_errors():
        trained = train_pfs(
            source=source, out=out, backbone=backbone, seeds=seeds, folds=folds, variants=variants,
            regenerated_variants=regenerated_variants, steps_per_arm=steps, points=points, seed=seed,
            max_per_group=max_per_group, accept_split_formats=accept_split_formats, cache=cache, device=device,
            storage_block=storage_block, **chosen,
        )  # fmt: skip
    typer.echo(trained.table)
    console.print(
        f"{trained.directory}: {trained.objective} with {trained.statistic}; generators and real sources that it never "
        f"saw, both classes at JPEG 90: AUROC {trained.auroc_mean:.3f} in the mean over generators, "
        f"{trained.auroc_pooled:.3f} pooled; "
        f"{trained.images} images, {trained.excluded} left out",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    console.print(f"next:   mdmf curate SHARDS --scorer {trained.directory}", highlight=False, soft_wrap=True)


@app.command()
def evaluate(
    source: Annotated[str, typer.Argument(help=LABELLED)],
    out: Annotated[str, typer.Option(help="Directory to write; must not exist.")],
    scorer: ScorerOption = "default",
    bank: Annotated[str, typer.Option(help="default = the scorer's own, or a bank directory built with it.")] = "default",
    part: Annotated[Part, typer.Option(help="Which half of GenImage.")] = Part.val,
    max_per_group: Groups = None,
    drop_seen: Annotated[bool, typer.Option(help="Leave out images that scorer, bank or calibration has seen.")] = False,
    cache: Cache = ".mdmf/tokens",
    device: Device = "auto",
    storage_block: Block = None,
) -> None:
    """Measure a scorer on labelled images: figures per generator, controls, peers, robustness. Status 1 on a broken control."""
    from flows.evaluate import evaluate as flow

    with _plain_errors():
        found = flow(
            source=source, out=out, scorer=scorer, bank=bank, part=part.value, max_per_group=max_per_group, drop_seen=drop_seen,
            cache=cache, device=device, storage_block=storage_block,
        )  # fmt: skip
    typer.echo(found.table)
    for control in found.controls:
        console.print(f"control holds: {control.name}: {control.detail}", highlight=False, soft_wrap=True)
    console.print(
        f"{found.images} images, {found.excluded} without a score; see {found.directory}/evaluation.md", soft_wrap=True
    )


@bank_app.command("build")
def bank_build(
    source: Annotated[str, typer.Argument(help="Images that are known to be real, of the kind that will be scored.")],
    out: Annotated[str, typer.Option(help="Directory to write; must not exist. Local or s3://")],
    scorer: ScorerOption = "default",
    points: Annotated[int, typer.Option(min=2, help="Patches that the bank is compressed to.")] = 1000,
    max_images: Annotated[int, typer.Option(min=4, help="Images read at most.")] = 2000,
    domain: Annotated[str, typer.Option(help="What the images are: photo, face, art, ...")] = "photo",
    device: Device = "auto",
    storage_block: Block = None,
) -> None:
    """Build a bank on half of the images and calibrate it on the other half."""
    from flows.bank import build_bank

    with _plain_errors():
        built = build_bank(
            source=source, directory=out, scorer=scorer, points=points, max_images=max_images, domain=domain, device=device,
            storage_block=storage_block,
        )  # fmt: skip
    console.print(
        f"{built.directory}: {built.bank_images} images in the bank, {built.points} points, coreset error "
        f"{built.coreset_error:.4f}; calibrated on {built.calibration_images}, so budgets down to "
        f"{1 / (built.calibration_images + 1):.4f} can be kept",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


if __name__ == "__main__":
    app()
