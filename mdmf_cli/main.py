"""`mdmf`: every command of the project."""

import os
from enum import StrEnum
from typing import Annotated, Any

# The in-process runs need no account, no telemetry and no network beyond the source.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")

import typer

from mdmf_cli import export as keep_lists
from mdmf_cli.bank import bank_app
from mdmf_cli.console import Block, Device, ScorerOption, Warehouse, console, plain_errors, print_rows, print_scored
from mdmf_cli.recovery import reap, retry
from mdmf_cli.review import review_app
from mdmf_cli.safety import safety_app
from mdmf_core.errors import MdmfError

app = typer.Typer(
    help="Find likely AI-generated images in training corpora: one row per image in DuckDB, filtered with SQL.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(bank_app, name="bank")
app.add_typer(review_app, name="review")
app.add_typer(safety_app)


class Format(StrEnum):
    table = "table"
    csv = "csv"
    json = "json"


class Part(StrEnum):
    train = "train"
    val = "val"


@app.command()
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
    batch_images: Annotated[int, typer.Option(min=1, help="Images in one pass through the backbone.")] = 32,
    decode_threads: Annotated[int, typer.Option(min=0, help="0 = one per core that the backbone leaves free.")] = 0,
    device: Device = "auto",
    storage_block: Block = None,
    promote: Annotated[bool, typer.Option(help="Make this scorer and bank the ones that the views show.")] = False,
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
            storage_block=storage_block, promote=promote,
        )  # fmt: skip
    print_scored(result)
    if not result.promoted:
        console.print("The views show another scorer or bank; query the table `scores`, or run again with --promote.")
    if result.report:
        console.print(f"report: {result.report}", highlight=False, soft_wrap=True)
    console.print(f'next:   mdmf sql "SELECT * FROM flagged(0.05)" --warehouse {warehouse}', highlight=False, soft_wrap=True)


@app.command()
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


@app.command()
def sql(
    sql: Annotated[str, typer.Argument(metavar="QUERY", help='For example "SELECT key, score, p_value FROM flagged(0.05)"')],
    warehouse: Warehouse = "warehouse.duckdb",
    format: Annotated[Format, typer.Option(help="How the result is printed.")] = Format.table,
    parts: Annotated[
        bool, typer.Option("--parts", help="Ask what the newest run has finished, without opening the warehouse.")
    ] = False,
) -> None:
    """Ask the warehouse. Read-only."""
    import duckdb

    if parts:
        from tasks.parts_view import query_parts as query
    else:
        from tasks.warehouse import query

    with plain_errors():
        try:
            frame = query(warehouse, sql)
        except duckdb.Error as error:
            raise MdmfError(str(error)) from error
    if format is Format.table:
        print_rows(frame.to_dict("records"), [str(name) for name in frame.columns])
    elif format is Format.csv:
        typer.echo(frame.to_csv(index=False), nl=False)
    else:
        typer.echo(frame.to_json(orient="records", lines=True, date_format="iso"), nl=False)


@app.command()
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
            raise MdmfError(f"{warehouse} holds no scored images yet")
    console.print(page, highlight=False, soft_wrap=True)


# `mdmf --help` lists commands in the order in which they stand here: that of a curator's day.
app.command()(keep_lists.export)
app.command()(keep_lists.reshard)
app.command()(retry)
app.command()(reap)


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

    with plain_errors():
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
    with plain_errors():
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

    with plain_errors():
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


if __name__ == "__main__":
    app()
