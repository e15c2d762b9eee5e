"""What `curate` and `retry` have in common: a plan carried out group by group, landed, reported, closed."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from prefect import get_run_logger, runtime
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.futures import PrefectFuture, as_completed
from pydantic import BaseModel

from mdmf_core.errors import MdmfError
from tasks import artifacts, steps
from tasks.leases import owner
from tasks.parts import ShardOutcome
from tasks.steps import CurateSettings, Plan
from tasks.warehouse import leases_folder


class CurateResult(BaseModel):
    """What a run did, and where to look. Counts are of this run."""

    run_id: str
    shards: int  # in the source
    already_complete: int
    set_aside: int  # failed before with the same bytes
    complete: int
    deferred: int
    failed: int
    elsewhere: int  # another run was at them
    members: int
    scored: int
    excluded: int
    warehouse: str
    report: str | None
    promoted: bool  # whether the view `scored` shows these rows


def carry_out(settings: CurateSettings, make_plan: Callable[[str], Plan]) -> CurateResult:
    """Plans, scores, lands and reports as one owner of leases.

    Raises:
        MdmfError: a group or a shard failed for a reason that is not the shard's own, or no shard could be scored.
    """
    run_id = str(runtime.flow_run.id or uuid.uuid4())
    with owner(leases_folder(settings.warehouse), run_id) as name:
        plan = make_plan(run_id)
        with _run_closed(settings, run_id) as failures:
            artifacts.label_run(settings.scorer, settings.bank, plan.to_do, plan.shards)
            futures = [steps.score_group.submit(settings, plan.path, group, name) for group in range(plan.groups)]
            outcomes = [outcome for landed in _landed(settings, futures, failures) for outcome in landed]
            page = steps.report(settings)
            result = _result(plan, run_id, outcomes, settings.warehouse, page)
            failures += _broken(plan, outcomes)
        Path(plan.path).unlink(missing_ok=True)  # every group has ended; a stopped run leaves it to `mdmf verify`
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
        try:
            outcomes = future.result()
            steps.land_group(settings, outcomes)
            yield outcomes
        except Exception as error:
            failures.append(f"a group of shards failed: {error}")
            get_run_logger().error("a group of shards failed: %s", error)
        update_progress_artifact(artifact_id=cast(uuid.UUID, progress), progress=100.0 * number / len(futures))


def _broken(plan: Plan, outcomes: list[ShardOutcome]) -> list[str]:
    """Why the run must not count as a success, though every shard has its row."""
    errors = [outcome for outcome in outcomes if (outcome.reason or "").startswith("error:")]
    if errors:
        return [f"{len(errors)} of {plan.to_do} shards failed; first: {errors[0].url}: {errors[0].reason}"]
    bad = [outcome for outcome in outcomes if outcome.state == "failed" or (outcome.reason or "").startswith("storage:")]
    if bad and not any(outcome.state == "complete" for outcome in outcomes):
        return [f"none of {plan.to_do} shards could be scored; first: {bad[0].url}: {bad[0].reason}"]
    return []


def _result(plan: Plan, run_id: str, outcomes: list[ShardOutcome], warehouse: str, page: str | None) -> CurateResult:
    states = [outcome.state for outcome in outcomes]
    return CurateResult(
        run_id=run_id,
        shards=plan.shards,
        already_complete=plan.already_complete,
        set_aside=plan.set_aside,
        complete=states.count("complete"),
        deferred=states.count("deferred"),
        failed=states.count("failed"),
        elsewhere=states.count("elsewhere"),
        members=sum(outcome.members for outcome in outcomes),
        scored=sum(outcome.scored for outcome in outcomes),
        excluded=sum(outcome.excluded for outcome in outcomes),
        warehouse=warehouse,
        report=page,
        promoted=plan.promoted,
    )
