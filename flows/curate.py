"""`curate`: a collection of images in, one row per image in the warehouse out."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, cast

from prefect import flow, get_run_logger, runtime
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.futures import PrefectFuture, as_completed
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import BaseModel, Field

from mdmf_core.errors import MdmfError
from tasks import artifacts, steps
from tasks.parts import ShardOutcome
from tasks.steps import CurateSettings


class CurateResult(BaseModel):
    """What a run did, and where to look. Counts are of this run."""

    run_id: str
    shards: int  # in the source
    already_complete: int
    complete: int
    deferred: int
    failed: int
    members: int
    scored: int
    excluded: int
    warehouse: str
    report: str | None
    promoted: bool  # whether the view `scored` shows these rows


@flow(
    name="curate",
    flow_run_name=artifacts.run_name,
    # One worker: the model owns the device, and decoding has threads of its own.
    task_runner=ThreadPoolTaskRunner(max_workers=1),  # type: ignore[arg-type]
)
def curate(
    source: str,
    warehouse: str = "warehouse.duckdb",
    scorer: str = "default",
    bank: str = "default",
    calibration: str | None = None,
    keep_signatures: Annotated[float, Field(ge=0, le=1)] = 0.0,
    shards_per_task: Annotated[int, Field(ge=1)] = 4,
    images_per_slice: Annotated[int, Field(ge=1)] = 1000,
    max_shards: Annotated[int, Field(ge=1)] | None = None,
    batch_images: Annotated[int, Field(ge=1)] = 32,
    decode_threads: Annotated[int, Field(ge=0)] = 0,
    device: str = "auto",
    storage_block: str | None = None,
    promote: bool = False,
) -> CurateResult:
    """Scores every image of a collection against a bank of real images and lands one row per image in DuckDB.

    Args:
        source: tar or parquet shards by path, brace range ({00000..00099}.tar) or glob, or a folder; local or s3://.
        warehouse: path of the DuckDB file; made if it is not there.
        scorer: `default`, a scorer directory, or `timm:MODEL?weights=FILE` (see docs).
        bank: `default`, a bank directory that was built with the scorer, or `name@3`, `name`, `@alias` in the registry.
        calibration: number in the registry or file; None = the bank's newest, or the one promoted with the alias.
        keep_signatures: share of shards whose signatures are kept beside the warehouse, so that `rescore` needs no backbone.
        shards_per_task: shards that are scored by one task and committed together.
        images_per_slice: images that make one shard when the source is a folder of images.
        max_shards: stop after this many shards that are not complete yet; the next run goes on.
        batch_images: images in one pass through the backbone.
        decode_threads: 0 = one per core that the backbone leaves free.
        device: auto, cpu, cuda or cuda:N.
        storage_block: name of a Prefect Secret block with fsspec options, in place of the AWS variables.
        promote: make this scorer and bank the ones that the views show.

    Raises:
        MdmfError: a source, scorer, bank or warehouse that cannot be used, in one sentence; or no shard could be scored.
    """
    run_id = str(runtime.flow_run.id or uuid.uuid4())
    settings = CurateSettings(
        source=source, warehouse=warehouse, scorer=scorer, bank=bank, calibration=calibration, keep_signatures=keep_signatures,
        shards_per_task=shards_per_task, images_per_slice=images_per_slice, max_shards=max_shards, batch_images=batch_images,
        decode_threads=decode_threads, device=device, storage_block=storage_block, promote=promote,
    ).resolved()  # fmt: skip
    plan = steps.plan(settings, run_id)
    artifacts.label_run(settings.scorer, settings.bank, plan.to_do, plan.shards)
    with _run_closed(settings, run_id) as failures:
        futures = [steps.score_group.submit(settings, plan.path, group, run_id) for group in range(plan.groups)]
        outcomes = [outcome for landed in _landed(settings, futures, failures) for outcome in landed]
        page = steps.report(settings)
        result = _result(plan, run_id, outcomes, settings.warehouse, page)
        if not result.complete and (result.failed or any("storage:" in (o.reason or "") for o in outcomes)):
            failures.append(f"none of {plan.to_do} shards could be scored; first: {outcomes[0].url}: {outcomes[0].reason}")
    artifacts.publish(result.model_dump(), outcomes, run_id)
    if failures:
        raise MdmfError("; ".join(failures))
    return result


@contextmanager
def _run_closed(settings: CurateSettings, run_id: str) -> Iterator[list[str]]:
    """Writes how the run ended, whatever ended it short of a kill; failures are collected in the list."""
    failures: list[str] = []
    try:
        yield failures
    except BaseException as error:
        steps.close_run(settings, run_id, [*failures, f"{type(error).__name__}: {error}"])
        raise
    steps.close_run(settings, run_id, failures)


def _landed(
    settings: CurateSettings, futures: list[PrefectFuture[list[ShardOutcome]]], failures: list[str]
) -> Iterator[list[ShardOutcome]]:
    """Lands each group as soon as it is scored. A group that fails costs the run its success, not the other groups."""
    progress = create_progress_artifact(progress=0.0 if futures else 100.0, key="curate-progress", description=settings.source)
    for number, future in enumerate(as_completed(futures), start=1):
        outcomes = future.result(raise_on_failure=False)
        if isinstance(outcomes, list):
            steps.land_group(settings, outcomes)
            yield outcomes
        else:
            failures.append(f"a group of shards failed: {outcomes}")
            get_run_logger().error("a group of shards failed: %s", outcomes)
        update_progress_artifact(artifact_id=cast(uuid.UUID, progress), progress=100.0 * number / len(futures))


def _result(plan: steps.Plan, run_id: str, outcomes: list[ShardOutcome], warehouse: str, page: str | None) -> CurateResult:
    states = [outcome.state for outcome in outcomes]
    return CurateResult(
        run_id=run_id,
        shards=plan.shards,
        already_complete=plan.shards - plan.to_do,
        complete=states.count("complete"),
        deferred=states.count("deferred"),
        failed=states.count("failed"),
        members=sum(outcome.members for outcome in outcomes),
        scored=sum(outcome.scored for outcome in outcomes),
        excluded=sum(outcome.excluded for outcome in outcomes),
        warehouse=warehouse,
        report=page,
        promoted=plan.promoted,
    )
