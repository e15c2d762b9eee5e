"""The table of child runs on the Prefect page of a corpus run."""

from typing import Any

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from tasks.runs.fan_out.portions import PortionResult
from tasks.runs.prefect_page import _ROWS


@task(cache_policy=NO_CACHE, task_run_name="artifacts")
def publish_corpus(totals: dict[str, Any], portions: list[PortionResult]) -> None:
    """Publishes the accounting of all child runs together and the state of each portion, portions that were given up first."""
    create_markdown_artifact(
        key="corpus-accounting",
        description="members = scored + excluded",
        markdown=(
            "{members} members = {scored} scored + {excluded} excluded; {complete} shards complete, {already_complete} were "
            "complete before, {deferred} deferred, {failed} failed, {set_aside} set aside, {elsewhere} at work elsewhere, "
            "{unfinished} unfinished in {given_up} of {portions} portions that were given up.\n\n"
            "Warehouse: `{warehouse}` · report: `{report}`\n"
        ).format(**totals),
    )
    rows = sorted(portions, key=lambda result: (not result.failures, result.portion))
    create_table_artifact(
        key="corpus-portions",
        description=f"{len(rows)} portions; those given up first",
        table=[row.model_dump(exclude={"failures"}) | {"failures": "; ".join(row.failures)} for row in rows[:_ROWS]],
    )
    if totals["report"]:
        create_link_artifact(key="corpus-report", link=f"file://{totals['report']}", link_text="report page")
