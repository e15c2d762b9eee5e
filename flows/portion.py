"""The flow `curate-portion` scores one portion of a corpus plan, as a child run of `curate-corpus`."""

from prefect import flow

from tasks.runs.execution import CurateResult, carry_out
from tasks.runs.fan_out import steps as corpus_steps
from tasks.runs.settings import CurateSettings


@flow(name="curate-portion")
def curate_portion(plan: str, portion: int, settings: CurateSettings) -> CurateResult:
    """Scores what is left to do of one portion and leaves its result beside the plan.

    Args:
        plan: path or URL of a corpus plan.
        portion: which of its groups.
        settings: as `curate-corpus` resolved them.

    Raises:
        MdmfError: as in `curate`; or the plan is not there any more.
    """

    resolved = settings.resolved()

    def keep(result: CurateResult, failures: list[str]) -> None:
        wasted = result.wasted_seconds
        corpus_steps.keep_portion(resolved, plan, portion, result.run_id, result.elsewhere, failures, wasted)

    return carry_out(resolved, lambda run_id: corpus_steps.plan_portion(resolved, plan, portion, run_id), keep)
