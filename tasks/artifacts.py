"""What Prefect's own pages show of a run: its name and tags, tables, links."""

import os
from collections.abc import Sequence
from typing import Any

from prefect import get_client, runtime, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from tasks.parts import ShardOutcome
from tasks.plans import read_plan
from tasks.portions import PortionResult
from tasks.storage import refuse_credentials
from tasks.warehouse import query

_ROWS = 500  # of a table artifact; Prefect keeps them in its database


def short_source(source: str) -> str:
    """The last two parts of a URL: enough to tell collections apart in a list of runs.

    >>> short_source("s3://bucket/laion/{00000..00099}.tar")
    'laion/{00000..00099}.tar'
    """
    return "/".join(source.rstrip("/").split("/")[-2:])


def run_name() -> str:
    """For ``flow_run_name``: source, shard range, and how many shards at most."""
    parameters = runtime.flow_run.parameters
    refuse_credentials(parameters["source"])
    most = parameters.get("max_shards")
    return f"curate {short_source(parameters['source'])}{f', {most} shards at most' if most else ''}"[:200]


def group_name() -> str:
    """For ``task_run_name`` of a task that takes a plan and the number of a group: its shards."""
    parameters = runtime.task_run.parameters
    names = [short_source(work.shard.url) for work in read_plan(parameters["plan_path"], parameters["group"])]
    return f"score {_span(names)}"[:200]


def landing_name() -> str:
    """For ``task_run_name`` of a task that takes outcomes: their shards."""
    return f"land {_span([short_source(outcome.url) for outcome in runtime.task_run.parameters['outcomes']])}"[:200]


def _span(names: Sequence[str]) -> str:
    """First and last of some shards.

    >>> _span(["laion/00000.tar", "laion/00001.tar", "laion/00002.tar"])
    'laion/00000.tar .. 00002.tar (3)'
    """
    if len(names) < 2:
        return names[0] if names else "nothing"
    return f"{names[0]} .. {names[-1].rpartition('/')[2]} ({len(names)})"


def label_run(scorer: str, bank: str, to_do: int, shards: int) -> None:
    """Adds to the name of the run how many shards it has to do, and tags it with scorer and bank."""
    identity = runtime.flow_run.id
    if identity is None:
        return
    tags = {*(runtime.flow_run.tags or []), "mdmf", f"scorer:{_tag(scorer)}", f"bank:{_tag(bank)}"}
    with get_client(sync_client=True) as client:
        client.update_flow_run(
            identity, name=f"{runtime.flow_run.name.partition(': ')[0]}: {to_do} of {shards} shards", tags=sorted(tags)
        )


def _tag(address: str) -> str:
    """``default`` as it is, the last part of a path, the model of ``timm:MODEL?...``."""
    return os.path.basename(address.partition("?")[0].rstrip("/"))


@task(cache_policy=NO_CACHE, task_run_name="artifacts")
def publish(totals: dict[str, Any], outcomes: list[ShardOutcome], run_id: str) -> None:
    """The run's accounting, its shards, its exclusions by reason and a link to the report page."""
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


@task(cache_policy=NO_CACHE, task_run_name="artifacts")
def publish_corpus(totals: dict[str, Any], portions: list[PortionResult]) -> None:
    """The accounting over all child runs, and what became of each portion; those given up first."""
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


def _exclusions(totals: dict[str, Any], run_id: str) -> list[dict[str, Any]]:
    rows = query(
        totals["warehouse"],
        "SELECT reason, count(*) AS members, min(key) AS key, min_by(detail, key) AS detail FROM exclusions WHERE run_id = ? "
        "GROUP BY reason ORDER BY members DESC, reason",
        [run_id],
    )
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]
