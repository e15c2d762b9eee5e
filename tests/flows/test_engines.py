"""Every engine makes the same rows of the same shards, scored by other processes than the flow's own."""

import os
import re
import sys
import time
from collections.abc import Iterator

import pytest
import torch
from clusters import DASK, RAY, cluster
from fabricate import write_shard
from harness import look
from mortal import killing_workers
from prefect import get_client, task
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

from flows.curate import curate as flow
from mdmf import to_pandas as query
from mdmf_core.errors import MdmfError
from tasks.parts.leases import dead_owners
from tasks.runs import engines
from tasks.runs.engines import Engine, absolute, started
from tasks.warehouse.warehouse import Warehouse

SHARDS = 6


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("shards")
    for number in range(SHARDS):
        write_shard(folder / f"{number:05d}.tar", range(number * 10, number * 10 + 4), {"page.jpg": b"<html>"})
    return f"{folder}/*.tar"


@pytest.fixture(scope="module")
def alone(prefect_server, shards, tiny_scorer, tiny_bank, tmp_path_factory) -> tuple[str, int, int]:
    """What the run in one process makes."""
    warehouse = str(tmp_path_factory.mktemp("alone") / "w.duckdb")
    flow(source=shards, warehouse=warehouse, scorer=tiny_scorer, bank=tiny_bank, shards_per_task=4)
    return look(warehouse)


@pytest.fixture(scope="module", params=[RAY, DASK])
def running(request) -> Iterator[dict[str, str]]:
    """A cluster of two workers, of which one says that it has a GPU."""
    with cluster(request.param, workers=2, gpus=1) as address:
        yield {"engine": request.param, "engine_address": address}


def scored_by(run_id: str) -> list[int]:
    """The process of each group, as it says in the log, which workers send when they come to it."""
    found: list[int] = []
    for _ in range(60):
        with get_client(sync_client=True) as client:
            logs = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id])), limit=200)
        matches = [re.search(r"^group \d+: .*; process (\d+) on ", log.message) for log in logs]
        found = [int(match[1]) for match in matches if match]
        if len(found) >= SHARDS:
            break
        time.sleep(1)
    return found


@pytest.mark.long
def test_a_cluster_of_several_processes_makes_the_rows_that_one_process_makes(curate, shards, alone, tmp_path, running):
    result = curate(shards, warehouse=str(tmp_path / "w.duckdb"), shards_per_task=1, **running)
    assert result.complete == SHARDS
    assert look(result.warehouse) == alone
    assert result.wasted_seconds == 0
    processes = scored_by(result.run_id)
    assert len(processes) == SHARDS
    assert os.getpid() not in processes
    if running["engine"] == DASK:  # both workers stand before the run; Ray starts its second one when it comes to it
        assert len({*processes}) > 1
    (device,) = query(result.warehouse, "SELECT device FROM runs")["device"]
    assert device == f"{running['engine']}: 1 cores and 0 GPUs a task"


@pytest.mark.long
def test_two_processes_of_the_cluster_are_at_work_at_the_same_time(prefect_server, running, tmp_path):
    engine = Engine(name=running["engine"], address=running["engine_address"])
    with started(engine) as runner:
        futures = [runner.submit(met, {"folder": str(tmp_path), "number": number}) for number in range(2)]
        found = [future.result() for future in futures]
    assert len({*found, os.getpid()}) == 3


@pytest.mark.long
def test_a_task_that_asks_for_a_gpu_goes_where_one_is(prefect_server, running):
    engine = Engine(name=running["engine"], address=running["engine_address"], num_gpus=1)
    with started(engine) as runner:
        found = [runner.submit(visible, {"number": number}).result() for number in range(4)]
    assert found == ["0"] * 4  # not the worker without one


@pytest.mark.long
def test_workers_killed_while_they_score_cost_seconds_and_no_row(curate, shards, alone, tmp_path, running):
    warehouse = str(tmp_path / "w.duckdb")
    leases = Warehouse.at(warehouse).leases
    with killing_workers(leases, 2) as killed:
        result = curate(shards, warehouse=warehouse, shards_per_task=1, **running)
    assert len(killed) == 2
    assert result.complete == SHARDS
    assert look(warehouse) == alone
    assert result.wasted_seconds > 0
    assert os.listdir(os.path.join(leases, "held")) == []
    assert dead_owners(leases) == []


@task
def met(folder: str, number: int) -> int:
    """The process, once the other task has begun too."""
    open(os.path.join(folder, str(number)), "w").close()
    for _ in range(1800):
        if len(os.listdir(folder)) == 2:
            return os.getpid()
        time.sleep(0.1)
    raise TimeoutError("the other task has not begun")


@task
def visible(number: int) -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.mark.long
def test_a_cluster_of_this_machine_ends_with_the_run(curate, shards, tmp_path):
    pytest.importorskip("prefect_dask", reason="needs pip install 'mdmf[dask]'")
    result = curate(shards, warehouse=str(tmp_path / "w.duckdb"), engine=DASK, max_shards=1)
    assert result.complete == 1
    (process,) = scored_by(result.run_id)
    assert not os.path.exists(f"/proc/{process}")


@pytest.mark.parametrize("name", [RAY, DASK])
def test_an_extra_that_is_not_installed_is_named(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with (
        pytest.raises(MdmfError, match=rf"engine '{name}' needs {name}, .*pip install 'mdmf\[{name}\]'"),
        started(Engine(name=name)),
    ):
        pass


@pytest.mark.parametrize(
    ("engine", "why"),
    [
        (Engine(address="127.0.0.1:1"), "engine_address and num_gpus belong to 'ray' and 'dask'"),
        (Engine(num_gpus=1), "engine_address and num_gpus belong to 'ray' and 'dask'"),
        (Engine(name=DASK, num_gpus=1), "CUDA_VISIBLE_DEVICES=0 dask worker SCHEDULER"),
        (Engine(name=DASK, address="tcp://127.0.0.1:1"), "no cluster answers at engine_address 'tcp://127.0.0.1:1'"),
    ],
)
def test_what_an_engine_cannot_do_is_said_before_anything_is_scored(monkeypatch, engine, why):
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "1s")
    with pytest.raises(MdmfError, match=re.escape(why)), started(engine):
        pass


def test_gpus_that_a_cluster_of_this_machine_lacks_are_an_error_and_a_warning_where_it_may_grow(caplog):
    with pytest.raises(MdmfError, match="a task asks for 2 GPU, the cluster has 1 now; lower num_gpus"):
        engines.require(Engine(name=RAY, num_gpus=2), 1)
    engines.require(Engine(name=RAY, num_gpus=2, address="a"), 2)
    assert caplog.text == ""
    engines.require(Engine(name=RAY, num_gpus=2, address="a"), 1)
    assert "tasks wait until it has more" in caplog.text


def test_a_group_keeps_to_its_cores():
    before = torch.get_num_threads()
    try:
        Engine().take_share()
        assert torch.get_num_threads() == before
        Engine(num_cpus=before + 1).take_share()
        assert torch.get_num_threads() == before + 1
        Engine(name=RAY).take_share()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_paths_are_absolute_for_workers_and_names_stay_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bank").mkdir()
    assert absolute("bank") == f"{tmp_path}/bank"
    assert absolute("default") == "default"
    assert absolute("s3://bucket/bank") == "s3://bucket/bank"
    (tmp_path / "w.safetensors").touch()
    assert absolute("timm:vit?weights=w.safetensors&size=224") == f"timm:vit?weights={tmp_path}/w.safetensors&size=224"
