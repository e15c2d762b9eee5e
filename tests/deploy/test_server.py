"""What deploy/ describes, on a real Prefect server on a real PostgreSQL."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from uuid import UUID, uuid4

import duckdb
import pytest
import yaml
from postgres_server import PostgresServer, binaries, postgres_server, why_not
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.states import Running
from prefect_servers import ROOT, on_postgres, prefect_server

from benchmarks.scale.soak import soak
from mdmf_cli.local_prefect import LocalPrefect
from mdmf_core.errors import MdmfError

pytestmark = [pytest.mark.long, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]
DEPLOY = ROOT / "deploy"
PULL = 'pull:\n  - prefect.deployments.steps.set_working_directory:\n      directory: "{{ $MDMF_HOME }}"\n'


class Served(NamedTuple):
    prefect: LocalPrefect
    postgres: PostgresServer
    deployer: Path  # a folder that workers know nothing of


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A Prefect server with deploy/server.env on PostgreSQL."""
    folder = tmp_path_factory.mktemp("served")
    deployer = tmp_path_factory.mktemp("deployer")
    with (
        postgres_server(folder / "postgres") as postgres,
        prefect_server(folder / "home", on_postgres(postgres), deployer) as prefect,
    ):
        yield Served(prefect, postgres, deployer)


def client(served: Served) -> PrefectClient:
    return PrefectClient(f"{served.prefect.ui}/api")


async def until(served: Served, run: UUID, wanted: set[StateType], seconds: float) -> State | None:
    """The run's state once it is one of these, or the last one seen."""
    async with client(served) as api:
        for _ in range(int(seconds * 2)):
            state = (await api.read_flow_run(run)).state
            if state is not None and state.type in wanted:
                break
            await asyncio.sleep(0.5)
    return state


def in_postgres(served: Served, query: str) -> str:
    """What the database itself says."""
    server = served.postgres
    command = [str(binaries() / "psql"), "-h", "127.0.0.1", "-p", str(server.port), "-U", server.user, "-Atc", query, "prefect"]
    environment = os.environ | {"PGPASSWORD": server.password}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_a_run_of_prefect_yaml_on_a_worker_elsewhere_that_is_told_to_stop(served, tmp_path):
    """Deployed in one folder, run in another; the worker finishes the run that it is on, and no other."""
    home = tmp_path / "installed"
    shutil.copytree(ROOT / "samples" / "folder", home / "samples" / "folder")
    (served.deployer / "workers.yaml").write_text((ROOT / "prefect.yaml").read_text() + PULL)
    prefect = served.prefect
    prefect.run("--no-prompt", "work-pool", "create", "local-process", "--type", "process")
    prefect.run("--no-prompt", "deploy", "--all", "--prefect-file", "workers.yaml")

    async def start() -> FlowRun:
        async with client(served) as api:
            deployment = await api.read_deployment_by_name("curate/folder")
            return await api.create_flow_run_from_deployment(deployment.id)

    first = asyncio.run(start())
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    surroundings = prefect.environment | {"MDMF_HOME": str(home), "PATH": path}
    with open(tmp_path / "worker.log", "w") as log:
        worker = subprocess.Popen(
            [str(DEPLOY / "worker.sh"), "local-process"],
            cwd=tmp_path, env=surroundings, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        begun = asyncio.run(until(served, first.id, {StateType.RUNNING, StateType.COMPLETED}, 120))
        assert begun.type == StateType.RUNNING, (tmp_path / "worker.log").read_text()
        second = asyncio.run(start())
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=240) == 0, (tmp_path / "worker.log").read_text()
    finally:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
    log_text = (tmp_path / "worker.log").read_text()
    states = dict(line.split("|") for line in in_postgres(served, "SELECT id, state_type FROM flow_run").splitlines())
    assert states[str(first.id)] == "COMPLETED", log_text
    assert states[str(second.id)] == "SCHEDULED"
    with duckdb.connect(str(home / "warehouse.duckdb"), read_only=True) as warehouse:
        members, scored = warehouse.execute("SELECT sum(members), sum(scored) FROM shards WHERE state = 'complete'").fetchone()
    assert members == len(list((home / "samples" / "folder").rglob("*.*")))
    assert scored > 0


@pytest.mark.parametrize("kind", ["kubernetes", "docker"])
def test_pools_take_the_job_templates_and_refuse_wrong_variables(served, kind):
    prefect, pool = served.prefect, f"{kind}-gpu"
    template = str(DEPLOY / f"{kind}-job-template.json")
    prefect.run("--no-prompt", "work-pool", "create", pool, "--type", kind, "--base-job-template", template)
    file = DEPLOY / f"prefect-{kind}.yaml"
    prefect.run("--no-prompt", "deploy", "--all", "--prefect-file", str(file))

    async def stored() -> tuple[dict, DeploymentResponse]:
        async with client(served) as api:
            return (await api.read_work_pool(pool)).base_job_template, await api.read_deployment_by_name(f"curate/{kind}")

    base, deployment = asyncio.run(stored())
    assert base == json.loads(Path(template).read_text())
    assert deployment.job_variables["gpus"] == 1
    content = yaml.safe_load(file.read_text())
    content["deployments"] = content["deployments"][:1]
    content["deployments"][0]["work_pool"]["job_variables"]["gpus"] = "many"
    (served.deployer / "wrong.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(MdmfError, match=r"409 Conflict.*'many.*is not of type .*integer"):
        prefect.run("--no-prompt", "deploy", "--all", "--prefect-file", "wrong.yaml")


def test_runs_that_stop_beating_are_crashed_and_no_others(served):
    """The automation as it is, but with less patience."""
    automation = yaml.safe_load((DEPLOY / "zombie-runs.yaml").read_text())
    automation["trigger"]["within"] = 10
    (served.deployer / "zombie-runs.yaml").write_text(yaml.safe_dump(automation))
    served.prefect.run("automation", "create", "--from-file", "zombie-runs.yaml")

    async def scenario() -> tuple[State | None, State | None]:
        async with client(served) as api:
            flow = await api.create_flow_from_name("stops-beating")
            runs = []
            for _ in range(2):
                answer = await api.request("POST", "/flow_runs/", json={"flow_id": str(flow), "name": uuid4().hex})
                runs.append(UUID(answer.json()["id"]))
                await api.set_flow_run_state(runs[-1], Running(), force=True)
            await asyncio.sleep(3)  # the services learn of the automation
            beating = asyncio.create_task(beat(api, runs[1], 14))
            await beat(api, runs[0], 1)
            dead = await until(served, runs[0], {StateType.CRASHED}, 60)
            alive = (await api.read_flow_run(runs[1])).state
            beating.cancel()
        return dead, alive

    dead, alive = asyncio.run(scenario())
    assert dead.type == StateType.CRASHED
    assert dead.message == automation["actions"][0]["message"]
    assert alive.type == StateType.RUNNING


async def beat(api: PrefectClient, run: UUID, times: int) -> None:
    """What a flow run tells of itself while it lives."""
    for _ in range(times):
        event = {
            "id": str(uuid4()),
            "event": "prefect.flow-run.heartbeat",
            "occurred": datetime.now(UTC).isoformat(),
            "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
        }
        (await api.request("POST", "/events", json=[event])).raise_for_status()
        await asyncio.sleep(3 if times > 1 else 0)


def test_two_flows_with_fifty_tasks_each_lose_no_run(served, tmp_path):
    outcome = soak("PostgreSQL", served.prefect, tmp_path, 2, 50)
    assert (outcome.lost, outcome.processes_failed) == (0, 0), outcome
    assert in_postgres(served, "SELECT count(*) FROM task_run WHERE name LIKE 'touch-%' AND state_type = 'COMPLETED'") == "100"
