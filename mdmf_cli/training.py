"""`mdmf train` and `mdmf evaluate`: scorers made of labelled images, and measured on them."""

from typing import Annotated, Any, get_args

import typer

from mdmf_cli.console import Block, Device, ScorerOption, WeightsOption, console, each_of, plain_errors
from mdmf_core.choices import Objective, Part, StatisticName

LABELLED = (
    "A .csv or .parquet manifest (columns label, group, url; optionally fold, domain, pair), or a folder: real/<source>/ and "
    "generated/<generator>/, ForenSynths (<generator>/0_real|1_fake) or GenImage (<generator>/val/nature|ai). Local or s3://"
)
Groups = Annotated[int | None, typer.Option(min=1, help="Images used of every generator and real source.")]
Cache = Annotated[str, typer.Option(help="Folder for patch tokens; safe to delete.")]


def train(
    source: Annotated[str, typer.Argument(help=LABELLED)],
    out: Annotated[str, typer.Option(help="Scorer directory to write; must not exist.")],
    backbone: Annotated[
        str, typer.Option(help="clip-b16, forensic, timm:MODEL?weights=FILE&blocks=1&pool=32, or mdmf-dinov2-l14?weights=FILE")
    ] = "clip-b16",
    objective: Annotated[
        list[str] | None,
        typer.Option(
            callback=each_of(Objective),
            help=f"Way to train the signature: {', '.join(get_args(Objective))}. May be given again; mmd-d by default.",
        ),
    ] = None,
    statistic: Annotated[
        list[str] | None,
        typer.Option(
            callback=each_of(StatisticName),
            help=f"Statistic that scores an image: {', '.join(get_args(StatisticName))}. May be given again; cross by default.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Signatures, trained from one seed each, that are joined.")] = 3,
    folds: Annotated[int, typer.Option(min=3, help="Parts that whole generators and whole real sources are dealt to.")] = 3,
    views: Annotated[int, typer.Option(min=1, help="Random crawls of every image that signatures are trained on.")] = 2,
    steps: Annotated[int, typer.Option(min=1, help="Gradient steps of every signature.")] = 300,
    points: Annotated[int, typer.Option(min=2, help="Points of the bank's coreset.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of folds, histories and training.")] = 2605,
    max_per_group: Groups = None,
    accept_split_formats: Annotated[bool, typer.Option(help="Go on when no file format occurs in both classes.")] = False,
    cache: Cache = ".mdmf/tokens",
    weights: WeightsOption = None,
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
            source=source, out=out, backbone=backbone, seeds=seeds, folds=folds, views=views, steps_per_arm=steps,
            points=points, seed=seed, max_per_group=max_per_group, accept_split_formats=accept_split_formats, cache=cache,
            device=device, storage_block=storage_block, **chosen,
        )  # fmt: skip
    typer.echo(trained.table)
    console.print(
        f"{trained.directory}: {trained.objective} with {trained.statistic}; generators and real sources that it never "
        f"saw, under the neutral protocol: AUROC {trained.auroc_mean:.3f} in the mean over generators, "
        f"{trained.auroc_pooled:.3f} pooled; "
        f"{trained.images} images, {trained.excluded} left out",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    console.print(f"next:   mdmf curate SHARDS --scorer {trained.directory}", highlight=False, soft_wrap=True)


def evaluate(
    source: Annotated[str, typer.Argument(help=LABELLED)],
    out: Annotated[str, typer.Option(help="Directory to write; must not exist.")],
    scorer: ScorerOption = "default",
    bank: Annotated[str, typer.Option(help="default = the scorer's own, or a bank directory built with it.")] = "default",
    part: Annotated[Part, typer.Option(help="Which half of GenImage.")] = "val",
    max_per_group: Groups = None,
    drop_seen: Annotated[bool, typer.Option(help="Leave out images that scorer, bank or calibration has seen.")] = False,
    cache: Cache = ".mdmf/tokens",
    weights: WeightsOption = None,
    device: Device = "auto",
    storage_block: Block = None,
) -> None:
    """Measure a scorer on labelled images: figures per generator, controls, peers, robustness. Status 1 on a broken control."""
    from flows.evaluate import evaluate as flow

    with plain_errors():
        found = flow(
            source=source, out=out, scorer=scorer, bank=bank, part=part, max_per_group=max_per_group, drop_seen=drop_seen,
            cache=cache, device=device, storage_block=storage_block,
        )  # fmt: skip
    typer.echo(found.table)
    for control in found.controls:
        console.print(f"control holds: {control.name}: {control.detail}", highlight=False, soft_wrap=True)
    console.print(
        f"{found.images} images, {found.excluded} without a score; see {found.directory}/evaluation.md", soft_wrap=True
    )
