"""A corpus plan and what became of its portions: files beside the parts, by which a second parent goes on with the first one's.

In ``plans/corpus``, ``WORK.json`` names the plan of this work that is not finished, ``PLAN.parquet`` is it (its groups are the
portions), and ``PLAN.NUMBER.json`` says what a child made of a portion.
"""

import os
import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from mdmf_core.digests import digest_of, short_id
from tasks.parts.outcome import WorkKey
from tasks.parts.store import remove, store_of, writing

_RESULT = re.compile(r"\.(\d+)\.json$")


class CorpusPlan(BaseModel):
    """A plan that is written completely, with the counts of the listing from which it was made."""

    plan_id: str
    source: str
    path: str
    portions: int
    shards_per_run: int
    shards: int
    to_do: int
    already_complete: int
    set_aside: int


class PortionResult(BaseModel):
    """What one child run made of a portion; the result of a later attempt replaces it."""

    portion: int
    run_id: str
    failures: list[str]
    complete: int
    deferred: int
    failed: int
    elsewhere: int
    members: int
    scored: int
    excluded: int
    wasted_seconds: float = 0.0  # of this attempt


def corpus_folder(parts: str) -> str:
    """Returns the folder of a warehouse's corpus plans."""
    return os.path.join(parts, "plans", "corpus")


def plan_path(folder: str, plan_id: str) -> str:
    """Returns the path of a plan in a folder of corpus plans."""
    return os.path.join(folder, f"{plan_id}.parquet")


def work_of(source: str, key: WorkKey, images_per_slice: int, max_shards: int | None) -> str:
    """Names the work of a plan by source, scorer, bank, calibration and what makes a shard; equal names mean equal work."""
    return str(short_id(digest_of({"source": source, "key": key.ids, "slice": images_per_slice, "most": max_shards})))


def unfinished_plan(folder: str, work: str) -> CorpusPlan | None:
    """Returns the plan that an earlier parent left for this work, if it is still there."""
    text = store_of(folder).read(_state_path(folder, work))
    return None if text is None else CorpusPlan.model_validate_json(text)


def keep_plan(folder: str, work: str, plan: CorpusPlan) -> None:
    """Records the plan of this work, so that whoever does the work from now on goes on with it."""
    _write(_state_path(folder, work), plan.model_dump_json())


def drop_plan(folder: str, work: str, plan: CorpusPlan) -> None:
    """Removes a finished plan, its record first, so that a kill halfway leaves nothing to go on with."""
    remove(_state_path(folder, work))
    for entry in store_of(folder).entries(folder, f"{plan.plan_id}."):
        remove(entry.path)


def keep_result(plan: str, result: PortionResult) -> None:
    """Writes what became of a portion of the plan at this path, for its parent and for every parent after it."""
    _write(_result_path(plan, result.portion), result.model_dump_json())


def result_of(plan: str, portion: int) -> PortionResult | None:
    """Returns what a child made of a portion; None while no child has ended."""
    text = store_of(plan).read(_result_path(plan, portion))
    return None if text is None else PortionResult.model_validate_json(text)


def results(plan: str) -> dict[int, PortionResult]:
    """Returns the results of all portions that have one, from one listing."""
    folder, name = os.path.split(plan.removesuffix("parquet"))
    numbers = [int(match[1]) for entry in store_of(folder).entries(folder, name) if (match := _RESULT.search(entry.path))]
    found = {number: result_of(plan, number) for number in numbers}
    return {number: result for number, result in found.items() if result is not None}


def totals(found: Iterable[PortionResult]) -> dict[str, Any]:
    """Adds up the counts of some portions."""
    names = ("complete", "deferred", "failed", "elsewhere", "members", "scored", "excluded", "wasted_seconds")
    rows = list(found)
    return {name: sum(getattr(row, name) for row in rows) for name in names}


def _state_path(folder: str, work: str) -> str:
    return os.path.join(folder, f"{work}.json")


def _result_path(plan: str, portion: int) -> str:
    return f"{plan.removesuffix('parquet')}{portion}.json"


def _write(path: str, text: str) -> None:
    with writing(path) as sink:
        sink.write(text.encode())
