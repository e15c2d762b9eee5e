"""This module publishes what Prefect's own pages show of a run: tables and links."""

from typing import Any

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from tasks.parts.outcome import ShardOutcome
from tasks.runs.names import short_source
from tasks.warehouse.questions import query
from tasks.warehouse.warehouse import Warehouse

_ROWS = 500  # of a table artifact; Prefect keeps them in its database


@task(cache_policy=NO_CACHE, task_run_name="artifacts")
def publish(totals: dict[str, Any], outcomes: list[ShardOutcome], run_id: str) -> None:
    """Publishes the run's accounting, its shards, its exclusions by reason and a link to the report page."""
    create_markdown_artifact(
        key="curate-accounting",
        description="members = scored + excluded",
        markdown=(
            "{members} members = {scored} scored + {excluded} excluded; {complete} shards complete, {already_complete} were "
            "complete before, {deferred} deferred, {failed} failed, {set_aside} set aside, {elsewhere} at work elsewhere.\n\n"
            "Warehouse: `{warehouse}` · report: `{report}`\n"
        ).format(**totals),
    )
    # What needs a look comes first.
    shards = sorted(outcomes, key=lambda outcome: (outcome.state == "complete", outcome.url))
    create_table_artifact(
        key="curate-shards",
        description=f"{len(shards)} shards of this run; those not complete first",
        table=[
            {
                "shard": short_source(o.url), "state": o.state, "members": o.members, "scored": o.scored,
                "excluded": o.excluded, "images/s": round(o.members / o.seconds, 1) if o.seconds else None,
                "reason": o.reason or "",
            }
            for o in shards[:_ROWS]
        ],
    )  # fmt: skip
    create_table_artifact(key="curate-exclusions", description="members without a score", table=_exclusions(totals, run_id))
    if totals["report"]:
        create_link_artifact(key="curate-report", link=f"file://{totals['report']}", link_text="report page")


def _exclusions(totals: dict[str, Any], run_id: str) -> list[dict[str, Any]]:
    rows = query(
        Warehouse.at(totals["warehouse"]),
        "SELECT reason, count(*) AS members, min(key) AS key, min_by(detail, key) AS detail FROM exclusions WHERE run_id = ? "
        "GROUP BY reason ORDER BY members DESC, reason",
        [run_id],
    )
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]
