"""A plan is carried out here, for `curate` and `retry` alike: scored group by group, landed, reported, closed."""

import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, cast

from prefect import get_run_logger, runtime
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner
from pydantic import BaseModel

from mdmf_core.errors import MdmfError
from mdmf_core.scoring.stage_costs import StageCosts
from tasks.parts.leases import owner
from tasks.parts.outcome import ShardOutcome, costs_of, wasted_seconds
from tasks.parts.store import remove
from tasks.runs import names, prefect_page, steps
from tasks.runs.engines import Engine, started
from tasks.runs.settings import ResolvedSettings
from tasks.runs.steps import Plan
from tasks.scoring.progress import STOPPING

_OUTSTANDING = 256  # groups that are submitted and not landed: more than the workers of one run; a server stands 500


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
    wasted_seconds: float  # of scoring whose rows did not land; those of dead attempts at these shards are among them


def carry_out(
    settings: ResolvedSettings, make_plan: Callable[[str], Plan], keep: Callable[[CurateResult, list[str]], None] | None = None
) -> CurateResult:
    """Plans, scores, lands and reports as one owner of leases.

    Args:
        keep: takes the result and the failures of a portion, which is a larger plan's: then the report is its parent's.

    Raises:
        MdmfError: a group or a shard failed for a reason that is not the shard's own, or no shard could be scored.
    """
    run_id = str(runtime.flow_run.id or uuid.uuid4())
    with owner(settings.where.leases, run_id) as name:
        plan = make_plan(run_id)
        with run_closed(settings, run_id) as ending:
            names.label_run(settings.scorer, settings.bank, plan.to_do, plan.shards)
            with started(settings.engine if plan.groups else Engine()) as runner, _stopped_by_interrupts():
                scored = _scored(settings, plan, name, runner)
                outcomes = [outcome for landed in _landed(settings, plan, scored, ending) for outcome in landed]
            page = None if keep else steps.report(settings, scored_here=not settings.engine.elsewhere)
            result = _result(plan, run_id, outcomes, settings.warehouse, page)
            if round(result.wasted_seconds, 1):
                get_run_logger().warning("%.1f s of scoring came to nothing", result.wasted_seconds)
            ending.failures += _broken(plan, outcomes)
            if keep:
                keep(result, ending.failures)
        remove(plan.path)  # every group has ended; a stopped run leaves it to `mdmf verify`
        prefect_page.publish(result.model_dump(), outcomes, run_id)
        if ending.failures:
            raise MdmfError("; ".join(ending.failures))
        return result


@contextmanager
def _stopped_by_interrupts() -> Iterator[None]:
    """Makes scoring threads stop after their batch when Ctrl-C ends the block, instead of after a whole group."""
    STOPPING.clear()
    try:
        yield
    except KeyboardInterrupt:
        STOPPING.set()
        raise


@dataclass
class Ending:
    """Collects what the run's row will say when the run ends."""

    run_id: str
    failures: list[str] = field(default_factory=list)
    costs: StageCosts = field(default_factory=StageCosts)


@contextmanager
def run_closed(settings: ResolvedSettings, run_id: str) -> Iterator[Ending]:
    """Writes how the run ended, whatever ended it short of a kill, and what its stages cost."""
    ending = Ending(run_id)
    try:
        yield ending
    except BaseException as error:
        steps.close_run(settings, run_id, [*ending.failures, f"{type(error).__name__}: {error}"], ending.costs.record())
        raise
    steps.close_run(settings, run_id, ending.failures, ending.costs.record())


def _scored(
    settings: ResolvedSettings, plan: Plan, owner: str, runner: TaskRunner[Any]
) -> Iterator[PrefectFuture[list[ShardOutcome]]]:
    """Gives each group of a plan once it is scored. Few are submitted at a time: ten thousand flood the server."""
    ended: SimpleQueue[PrefectFuture[list[ShardOutcome]]] = SimpleQueue()
    for group in range(plan.groups):
        if group >= _OUTSTANDING:
            yield ended.get()
        work = {"settings": settings, "plan_path": plan.path, "group": group, "owner": owner}
        runner.submit(steps.score_group, work).add_done_callback(ended.put)
    for _ in range(min(plan.groups, _OUTSTANDING)):
        yield ended.get()


def _landed(
    settings: ResolvedSettings, plan: Plan, scored: Iterable[PrefectFuture[list[ShardOutcome]]], ending: Ending
) -> Iterator[list[ShardOutcome]]:
    """Lands each group as soon as it is scored. A group that fails costs the run its success, not the other groups."""
    progress = create_progress_artifact(
        progress=0.0 if plan.groups else 100.0, key="curate-progress", description=settings.source
    )
    for number, future in enumerate(scored, start=1):
        try:
            outcomes = future.result()
            landing = steps.land_group(settings, outcomes)
            ending.costs += costs_of(outcomes, ending.run_id) + StageCosts.from_record(landing)
            yield outcomes
        except Exception as error:
            ending.failures.append(f"a group of shards failed: {error}")
            get_run_logger().error("a group of shards failed: %s", error)
        update_progress_artifact(artifact_id=cast(uuid.UUID, progress), progress=100.0 * number / plan.groups)


def _broken(plan: Plan, outcomes: list[ShardOutcome]) -> list[str]:
    """Lists why the run must not count as a success although every shard has its row."""
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
        wasted_seconds=wasted_seconds(outcomes),
    )
