"""The flow `curate-corpus` curates a collection too large for one run, by child runs that it starts and follows."""

import uuid
from typing import Annotated, cast

from prefect import flow, get_run_logger, runtime
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from mdmf_core.choices import EngineName
from mdmf_core.errors import MdmfError
from tasks.parts.leases import owner
from tasks.runs import names, steps
from tasks.runs.execution import CurateResult, run_closed
from tasks.runs.fan_out import steps as corpus_steps
from tasks.runs.fan_out.child_runs import ChildRuns, require_deployment
from tasks.runs.fan_out.follower import Follower
from tasks.runs.fan_out.portions import CorpusPlan, PortionResult, results, totals
from tasks.runs.fan_out.prefect_page import publish_corpus
from tasks.runs.settings import CurateSettings, ResolvedSettings, Share
from tasks.storage.filesystems import refuse_credentials
from tasks.warehouse.warehouse import Warehouse


class CorpusResult(CurateResult):
    """The result of a plan, over all its child runs and all its parents."""

    plan_id: str
    resumed: bool  # an earlier parent made the plan
    portions: int
    given_up: int  # portions
    unfinished: int  # shards of portions that were given up


@flow(name="curate-corpus", flow_run_name=names.run_name)
def curate_corpus(
    source: str,
    warehouse: str = "warehouse.duckdb",
    scorer: str = "default",
    bank: str = "default",
    calibration: str | None = None,
    keep_signatures: Share = 0.0,
    shards_per_task: PositiveInt = 4,
    images_per_slice: PositiveInt = 1000,
    max_shards: PositiveInt | None = None,
    batch_images: NonNegativeInt = 0,
    decode_threads: NonNegativeInt = 0,
    device: str = "auto",
    compile: bool = False,
    storage_block: str | None = None,
    promote: bool = False,
    engine: EngineName = "threads",
    engine_address: str | None = None,
    num_cpus: NonNegativeInt = 0,
    num_gpus: NonNegativeFloat = 0.0,
    shards_per_run: Annotated[int, Field(ge=1, le=2000)] = 200,
    runs_at_once: PositiveInt = 4,
    attempts: PositiveInt = 3,
    deployment: str = "curate-portion/laion-portion",
    resume: bool = True,
) -> CorpusResult:
    """Plans a collection once, has its portions scored by child runs, and goes on where an earlier parent died.

    Args:
        source: as in `curate`, and so are all up to `num_gpus`; device, engine, threads and batches are those of each child.
        shards_per_run: shards of a portion, which one child run does; 50 to 500 suit Prefect.
        runs_at_once: child runs that have not ended, at most; workers need a slot for each, and one for the parent.
        attempts: child runs in a row that may die or fail on one portion before it is given up.
        deployment: of the flow `curate-portion`; its work pool decides where the children run.
        resume: go on with an earlier parent's plan for the same source, scorer and bank; otherwise drop it and plan anew.

    Raises:
        MdmfError: as in `curate`; another parent is at this corpus; or portions were given up, and which.
    """
    asked = CurateSettings.model_validate(locals() | {"warehouse": Warehouse.at(warehouse).spelled})
    refuse_credentials(source)
    settings = asked.resolved()
    run_id, work = str(runtime.flow_run.id or uuid.uuid4()), corpus_steps.corpus_work(settings)
    with owner(settings.where.leases, run_id) as name:
        corpus_steps.require_alone(settings.where.leases, work, name)
        require_deployment(deployment)
        plan, resumed = corpus_steps.plan_corpus(settings, work, shards_per_run, resume)
        promoted = corpus_steps.open_corpus(settings, run_id)
        with run_closed(settings, run_id) as ending:
            names.label_run(scorer, bank, plan.to_do, plan.shards)
            children = ChildRuns(plan.plan_id, deployment, source, corpus_steps.of_every_child(settings, plan))
            follower = Follower(children, plan.path, settings.where.leases, runs_at_once, attempts)
            found = _carried_out(settings, plan, follower, ending.failures)
            page, given_up = steps.report(settings, scored_here=False), len(ending.failures)
            result = _result(plan, run_id, found, page, settings.warehouse, resumed, promoted, given_up)
        corpus_steps.close_corpus(settings, work, plan)
    publish_corpus(result.model_dump(), found)
    if ending.failures:
        raise MdmfError(f"{given_up} of {plan.portions} portions were given up; first: {ending.failures[0]}")
    return result


def _carried_out(settings: ResolvedSettings, plan: CorpusPlan, follower: Follower, failures: list[str]) -> list[PortionResult]:
    """Follows the children of all portions that are not done. A portion that is given up costs no other portion."""
    done = {number: result for number, result in results(plan.path).items() if not result.failures}
    progress = create_progress_artifact(
        progress=100.0 * len(done) / max(1, plan.portions), key="corpus-progress", description=settings.source
    )
    for ended in follower.follow(number for number in range(plan.portions) if number not in done):
        done[ended.portion] = corpus_steps.portion_result(settings, plan.path, ended)
        if ended.failure:
            failures.append(ended.failure)
            get_run_logger().error("%s", ended.failure)
        update_progress_artifact(artifact_id=cast(uuid.UUID, progress), progress=100.0 * len(done) / plan.portions)
    return [done[number] for number in sorted(done)]


def _result(
    plan: CorpusPlan, run_id: str, found: list[PortionResult], page: str | None, warehouse: str, resumed: bool, promoted: bool,
    given_up: int,
) -> CorpusResult:  # fmt: skip
    counts = totals(found)
    unfinished = plan.to_do - sum(counts[name] for name in ("complete", "deferred", "failed", "elsewhere"))
    return CorpusResult(
        run_id=run_id, shards=plan.shards, already_complete=plan.already_complete, set_aside=plan.set_aside,
        warehouse=warehouse, report=page, promoted=promoted, plan_id=plan.plan_id, resumed=resumed, portions=plan.portions,
        given_up=given_up, unfinished=unfinished, **counts,
    )  # fmt: skip
