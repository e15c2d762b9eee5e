"""Names of runs and tasks as the Prefect pages show them."""

import os
from collections.abc import Sequence
from functools import lru_cache

from prefect import get_client, runtime

from tasks.parts.outcome import Work
from tasks.parts.plans import read_plan
from tasks.storage.filesystems import refuse_credentials


def short_source(source: str) -> str:
    """Returns the last two parts of a URL, enough to tell collections apart in a list of runs.

    >>> short_source("s3://bucket/laion/{00000..00099}.tar")
    'laion/{00000..00099}.tar'
    """
    return "/".join(source.rstrip("/").split("/")[-2:])


def run_name() -> str:
    """Names a run after its source, and how many shards of it at most, for ``flow_run_name``."""
    parameters = runtime.flow_run.parameters
    refuse_credentials(parameters["source"])
    most = parameters.get("max_shards")
    return f"curate {short_source(parameters['source'])}{f', {most} shards at most' if most else ''}"[:200]


@lru_cache(maxsize=1)
def planned(plan_path: str, group: int) -> tuple[Work, ...]:
    """Reads one group of a plan once for its task: Prefect asks for the task's name just before it calls the task."""
    return tuple(read_plan(plan_path, group))


def group_name() -> str:
    """Names a task that takes a plan and the number of a group after the shards of the group, for ``task_run_name``."""
    parameters = runtime.task_run.parameters
    names = [short_source(work.shard.url) for work in planned(parameters["plan_path"], parameters["group"])]
    return f"score {_span(names)}"[:200]


def landing_name() -> str:
    """Names a task that takes outcomes after their shards, for ``task_run_name``."""
    return f"land {_span([short_source(outcome.url) for outcome in runtime.task_run.parameters['outcomes']])}"[:200]


def _span(names: Sequence[str]) -> str:
    """Names the first and the last of some shards, and how many they are.

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
    """Shortens a reference for a tag: ``default`` stays, a path becomes its last part, ``timm:MODEL?...`` its model."""
    return os.path.basename(address.partition("?")[0].rstrip("/"))
