"""Engines: where the groups of a run are scored. Each is a Prefect task runner; results land in the flow's own process.

Another engine is a function here that starts its task runner, and its name in `Engine.name`, `_START` and pyproject's extras.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Annotated, Any

import torch
from prefect.logging import get_logger
from prefect.logging.handlers import APILogWorker
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from pydantic import BaseModel, Field

from mdmf_core.choices import EngineName
from mdmf_core.errors import MdmfError
from tasks.parts.leases import MOST_ATTEMPTS

_log = get_logger(__name__)
# Workers that may die on one group. Its leases set every shard aside that kills them, so that this must be more than they need.
_MOST_DEATHS = 5 * MOST_ATTEMPTS
_SCHEME = re.compile(r"[a-z][a-z0-9+.]+:")
_WEIGHTS = re.compile(r"(?<=[?&]weights=)[^&]+")


class Engine(BaseModel):
    """Where groups of shards are scored, and what one group may take of a machine."""

    name: EngineName = "threads"
    address: str | None = None  # of a cluster that runs; None = one on this machine for the length of the run
    num_cpus: Annotated[int, Field(ge=0)] = 0  # 0 = all of them (threads), or one (ray, dask)
    num_gpus: Annotated[float, Field(ge=0)] = 0.0

    @property
    def elsewhere(self) -> bool:
        """True when groups are scored in other processes, perhaps on other machines."""
        return self.name != "threads"

    @property
    def cores(self) -> int:
        """The number of cores that one group may use, for the backbone's threads and the decoders together."""
        return self.num_cpus or (1 if self.elsewhere else os.cpu_count() or 1)

    def take_share(self) -> None:
        """Keeps torch in this process to the group's cores, so that several workers of a machine do not fight for them."""
        if self.elsewhere or self.num_cpus:
            torch.set_num_threads(self.cores)

    def hand_in_logs(self) -> None:
        """Sends what was logged: Ray ends the processes of a run that is over, with the lines that they still hold."""
        if self.elsewhere:
            APILogWorker.drain_all(timeout=5)

    def label(self) -> str:
        """Says what a task is given, for the run's row when only the workers know their devices."""
        return f"{self.name}: {self.cores} cores and {self.num_gpus:g} GPUs a task"


def absolute(reference: str) -> str:
    """Makes a path, or the weights in a backbone's address, absolute for workers in other folders; keeps a name."""
    if _SCHEME.match(reference):
        return _WEIGHTS.sub(lambda path: absolute(path[0]), reference)
    return os.path.abspath(reference) if os.path.exists(reference) else reference


def started(engine: Engine) -> AbstractContextManager[TaskRunner[Any]]:
    """Gives the engine's task runner, ready for tasks; a cluster that was started for it ends with the block.

    Raises:
        MdmfError: packages that are not installed, a cluster that does not answer or lacks what a task asks for, or options
            that this engine does not have.
    """
    return _START[engine.name](engine)


@contextmanager
def _threads(engine: Engine) -> Iterator[TaskRunner[Any]]:
    if engine.address is not None or engine.num_gpus:
        raise MdmfError("engine 'threads' is this process alone: engine_address and num_gpus belong to 'ray' and 'dask'")
    # One worker: the model owns the device, and decoding has threads of its own.
    runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=1)
    with runner:
        yield runner


@contextmanager
def _ray(engine: Engine) -> Iterator[TaskRunner[Any]]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with _installed("ray"):
        import ray
        from prefect_ray.context import remote_options
        from prefect_ray.task_runners import RayTaskRunner
    options: dict[str, Any] = {"address": engine.address or "local", "log_to_driver": False}
    if engine.address is None:
        options["include_dashboard"] = False
    with ExitStack() as stack:
        with _answers(engine):
            runner: TaskRunner[Any] = stack.enter_context(RayTaskRunner(init_kwargs=options))
            found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        require(engine, found.get("GPU", 0.0))
        stack.enter_context(remote_options(num_cpus=engine.cores, num_gpus=engine.num_gpus, max_retries=_MOST_DEATHS))
        yield runner


@contextmanager
def _dask(engine: Engine) -> Iterator[TaskRunner[Any]]:
    with _installed("dask"):
        import dask.config
        from dask.base import annotate
        from prefect_dask.task_runners import DaskTaskRunner
    if engine.address is None and engine.num_gpus:
        raise MdmfError(
            "engine 'dask' starts no workers for GPUs: start one for each, `CUDA_VISIBLE_DEVICES=0 dask worker SCHEDULER "
            "--nthreads 1 --resources GPU=1`, and give the scheduler's address as engine_address"
        )
    local = {
        "n_workers": max(1, (os.cpu_count() or 1) // engine.cores),
        "threads_per_worker": 1,
        "dashboard_address": "127.0.0.1:0",  # any free port of loopback
    }
    with ExitStack() as stack:
        # Of the cluster that is started here; one that runs already has its own settings. Dask closes a worker for good that is
        # not back 15 s after its death, which loading torch may take, and a run without workers waits for ever.
        settings = {"distributed.scheduler.allowed-failures": _MOST_DEATHS, "distributed.deploy.lost-worker-timeout": "1 hour"}
        stack.enter_context(dask.config.set(settings))
        with _answers(engine):
            where = {"address": engine.address} if engine.address else {"cluster_kwargs": local}
            runner: DaskTaskRunner = stack.enter_context(DaskTaskRunner(**where))
            workers = runner.client.scheduler_info(n_workers=-1)["workers"].values()
        if engine.num_gpus:
            most = max((worker["resources"].get("GPU", 0.0) for worker in workers), default=0.0)
            require(engine, most)
            stack.enter_context(annotate(resources={"GPU": engine.num_gpus}))
        yield runner


_START: dict[EngineName, Callable[[Engine], AbstractContextManager[TaskRunner[Any]]]] = {
    "threads": _threads,
    "ray": _ray,
    "dask": _dask,
}


@contextmanager
def _installed(extra: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or extra).partition(".")[0]
        raise MdmfError(f"engine '{extra}' needs {package}, which is not installed: pip install 'mdmf[{extra}]'") from error


@contextmanager
def _answers(engine: Engine) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Ray raises plain ones when its node does not come up in time
        where = f"no cluster answers at engine_address {engine.address!r}" if engine.address else "no cluster could be started"
        raise MdmfError(f"engine '{engine.name}': {where}: {type(error).__name__}: {error}") from error


def require(engine: Engine, gpus: float) -> None:
    """Refuses tasks that no worker can take, which would wait for ever; for a running cluster, which may grow, it only warns.

    Raises:
        MdmfError: a cluster of this machine has fewer GPUs than a task asks for.
    """
    if engine.num_gpus <= gpus:
        return
    text = f"engine '{engine.name}': a task asks for {engine.num_gpus:g} GPU, the cluster has {gpus:g} now"
    if engine.address is None:
        raise MdmfError(f"{text}; lower num_gpus")
    _log.warning("%s; tasks wait until it has more", text)
