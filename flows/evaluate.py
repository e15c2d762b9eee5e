"""The flow `evaluate` measures a scorer on labelled images: figures per generator, and controls."""

from typing import Annotated

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from mdmf_core.choices import Part
from tasks.training import evaluation_steps as steps
from tasks.training.evaluation import Evaluated, EvaluateSettings
from tasks.training.steps import follow


@flow(name="evaluate", task_runner=ThreadPoolTaskRunner(max_workers=1))  # type: ignore[arg-type]
def evaluate(
    source: str,
    out: str,
    scorer: str = "default",
    bank: str = "default",
    part: Part = "val",
    grid: tuple[str, ...] = ("jpeg-70", "jpeg-50", "blur-1", "noise-2", "resize-0.5"),
    max_per_group: Annotated[int, Field(ge=1)] | None = None,
    drop_seen: bool = False,
    cache: str = ".mdmf/tokens",
    device: str = "auto",
    storage_block: str | None = None,
) -> Evaluated:
    """Measures a scorer on labelled images and writes JSON, a Markdown page and plots.

    Groups that training held are reported apart from those that it did not. The run fails, after writing its files, when a
    control is broken: an image that training, bank or calibration has seen; real images that score otherwise as PNG; shuffled
    labels that can be told apart.

    Args:
        source: manifest (.csv, .parquet) or folder: real/ and generated/, ForenSynths, or GenImage.
        out: directory to write; must not exist. Local or s3://.
        scorer: `default`, a scorer directory or a backbone's address.
        bank: `default` = the scorer's own, or a bank directory built with it.
        part: which half of GenImage.
        grid: perturbations for the robustness table; each one costs a pass of the backbone an image.
        max_per_group: images used of every generator and real source; None = all.
        drop_seen: leave out images that scorer, bank or calibration has seen, instead of failing on them.
        cache: folder for tokens; safe to delete.

    Raises:
        MdmfError: a set, scorer or directory that cannot be used, or a broken control, in one sentence.
    """
    settings = EvaluateSettings(
        source=source, out=out, scorer=scorer, bank=bank, part=part, grid=grid, max_per_group=max_per_group,
        drop_seen=drop_seen, cache=cache, device=device, storage_block=storage_block,
    )  # fmt: skip
    listing, chunks = steps.plan(settings)
    follow([steps.extract.submit(settings, listing, chunk) for chunk in range(chunks)], "evaluate-tokens", source)
    evaluated = steps.measure(settings, listing)
    create_markdown_artifact(key="evaluate", description=f"{scorer} on {source}", markdown=evaluated.table)
    return evaluated
