"""The flow `train-pfs` makes a scorer with its bank, calibration and figures from labelled images."""

from typing import Annotated

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from mdmf_core.choices import Objective, StatisticName
from tasks.training import steps
from tasks.training.dataset import TrainSettings
from tasks.training.scorer_directory import Trained
from tasks.training.steps import follow


@flow(name="train-pfs", task_runner=ThreadPoolTaskRunner(max_workers=1))  # type: ignore[arg-type]
def train_pfs(
    source: str,
    out: str,
    backbone: str = "clip-b16",
    objectives: tuple[Objective, ...] = ("mmd-d",),
    statistics: tuple[StatisticName, ...] = ("cross",),
    seeds: Annotated[int, Field(ge=1)] = 3,
    folds: Annotated[int, Field(ge=3)] = 3,
    views: Annotated[int, Field(ge=1)] = 2,
    steps_per_arm: Annotated[int, Field(ge=1)] = 300,
    points: Annotated[int, Field(ge=2)] = 1000,
    top_k: Annotated[int, Field(ge=1)] = 8,
    seed: int = 2605,
    max_per_group: Annotated[int, Field(ge=1)] | None = None,
    accept_split_formats: bool = False,
    cache: str = ".mdmf/tokens",
    device: str = "auto",
    storage_block: str | None = None,
) -> Trained:
    """Trains a scorer on labelled images and measures it on generators and real sources that it never saw.

    Both classes pass the same random resizing, blur, noise and encodings. Whole generators and whole real sources are held out
    in turn; objective and statistic are chosen on held-out groups, and the figures come from yet others. The published scorer
    is the chosen recipe on all groups. A run that is cut off goes on where it stopped: tokens are cached.

    Args:
        source: manifest (.csv, .parquet) or folder of labelled images; see `mdmf train --help`.
        out: directory to write; must not exist. Local or s3://.
        backbone: `clip-b16`, `forensic`, `timm:MODEL?...`, or a preset such as `mdmf-dinov2-l14?weights=FILE`.
        objectives: arms to compare. mmd-d, mmd-mp and bce train a signature from a random start; none = raw tokens, slow.
        statistics: image statistics to compare; cross is the mean density of an image's patches in the bank.
        seeds: signatures that are trained, from one seed each, and joined.
        folds: parts that the groups are dealt to; a manifest's column `fold` overrides.
        views: random crawls of every image that signatures are trained on.
        steps_per_arm: gradient steps of every signature.
        points: of the bank's coreset.
        top_k: patches in the top-k term.
        seed: of folds and training.
        max_per_group: images used of every generator and real source; None = all.
        accept_split_formats: go on when no file format occurs in both classes.
        cache: folder for tokens; safe to delete.

    Raises:
        MdmfError: a set, backbone or directory that cannot be used, in one sentence.
    """
    settings = TrainSettings(
        source=source, out=out, backbone=backbone, objectives=objectives, statistics=statistics, seeds=seeds, folds=folds,
        views=views, steps=steps_per_arm, points=points, top_k=top_k, seed=seed, max_per_group=max_per_group,
        accept_split_formats=accept_split_formats, cache=cache, device=device, storage_block=storage_block,
    )  # fmt: skip
    plan = steps.plan(settings)
    follow([steps.extract.submit(settings, plan.listing, chunk) for chunk in range(plan.chunks)], "train-tokens", source)
    trained = steps.fit(settings, plan.listing)
    create_markdown_artifact(
        key="train-held-out",
        description="generators and real sources that the model never saw, both classes under the neutral protocol",
        markdown=f"Scorer `{trained.directory}`: {trained.objective}, {trained.statistic}\n\n{trained.table}",
    )
    return trained
