"""Real runs of `curate` on tiny shards, and how long each of their steps took.

Prefect keeps the start and the end of every task run; that is where the times come from.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import UUID

import psutil
import tiny
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, PREFECT_SERVER_ANALYTICS_ENABLED, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from flows.curate import curate

_PAGE = 200  # task runs that the server gives at once


@dataclass(frozen=True)
class RealRun:
    """One run, in seconds. Lists have one entry per group of shards, in the order in which they ended."""

    shards: int
    per_group: int
    images: int  # of a shard
    whole: float  # of the flow, from its first step to its last
    plan: float
    score: list[float]
    land: list[float]
    rest: float  # report, closing, artifacts
    before: float  # from the flow's start to the plan's
    server: float  # processor time of the Prefect server

    def record(self) -> dict[str, object]:
        return asdict(self)


@contextmanager
def server() -> Iterator[None]:
    """A Prefect server of its own."""
    quiet = temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_SERVER_ANALYTICS_ENABLED: False})
    with quiet, prefect_test_harness(server_startup_timeout=180):
        yield


def server_seconds() -> float:
    """Processor time that the server of ``server`` has taken so far."""
    return sum(
        sum(process.cpu_times()[:2])
        for process in psutil.Process().children(recursive=True)
        if any("prefect.server" in part for part in process.cmdline())
    )


def run(scorer: str, bank: str, shards: int, per_group: int, images: int = 2) -> RealRun:
    """Curates so many new shards into a new warehouse; needs ``server``."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = tiny.shards(folder / "shards", shards, images)
        served, started = server_seconds(), time.time()
        result = curate(
            source, str(folder / "w.duckdb"), scorer, bank, shards_per_task=per_group, decode_threads=1, device="cpu"
        )
        whole = time.time() - started
        if result.complete != shards or result.scored != shards * images:
            raise SystemExit(f"{shards} shards were to be scored: {result}")
        return _measured(UUID(result.run_id), shards, per_group, images, started, whole, server_seconds() - served)


def _measured(run_id: UUID, shards: int, per_group: int, images: int, started: float, whole: float, served: float) -> RealRun:
    spans: dict[str, list[tuple[float, float]]] = {"plan": [], "score": [], "land": [], "": []}
    with get_client(sync_client=True) as client:
        offset = 0
        while page := client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])), limit=_PAGE, offset=offset
        ):
            for task in page:
                if task.start_time is None or task.end_time is None:
                    raise SystemExit(f"the server does not know when {task.name} began and ended")
                kind = task.name.split(" ")[0]
                spans[kind if kind in spans else ""].append((task.start_time.timestamp(), task.end_time.timestamp()))
            offset += len(page)
    seconds = {kind: [end - start for start, end in sorted(found, key=lambda span: span[1])] for kind, found in spans.items()}
    return RealRun(
        shards, per_group, images, whole, sum(seconds["plan"]), seconds["score"], seconds["land"], sum(seconds[""]),
        min(start for start, _ in spans["plan"]) - started, served,
    )  # fmt: skip
