"""Following child runs at a real server, with a worker that does as it is told."""

import threading
import time
import uuid
from collections.abc import Callable
from contextlib import contextmanager

import pytest
from prefect import flow, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.states import Cancelled, Completed, Crashed, Failed, Pending, Running

from mdmf_core.errors import MdmfError
from tasks.parts.leases import owner
from tasks.runs.fan_out.child_runs import ChildRuns, require_deployment
from tasks.runs.fan_out.follower import Ended, Follower, Patience
from tasks.runs.fan_out.portions import PortionResult, keep_result, plan_path

DEPLOYMENT = "followed/by-hand"


@pytest.fixture(scope="module")
def deployment(prefect_server):
    with get_client(sync_client=True) as client:
        identity = client.create_flow_from_name("followed")
        client.create_deployment(identity, "by-hand")
    return DEPLOYMENT


class Worker(threading.Thread):
    """Does with each attempt at a portion what the script says; anything else completes, with its result."""

    def __init__(self, follower: Follower, script: dict[tuple[int, int], Callable[["Worker", object], None]]) -> None:
        super().__init__(daemon=True)
        self.follower, self.script, self.stopped = follower, script, threading.Event()
        self.most_open, self.begun = 0, []
        self.hold = 0  # ends no run before so many are open, as long as any are missing
        self.portions = 0

    def runs(self) -> list:
        chosen = FlowRunFilter(tags=FlowRunFilterTags(all_=[f"plan:{self.follower.children.plan_id}"]))
        return self.client.read_flow_runs(flow_run_filter=chosen)

    def run(self) -> None:
        with get_client(sync_client=True) as self.client:
            while not self.stopped.wait(0.02):
                still = [run for run in self.runs() if not run.state.is_final()]
                self.most_open = max(self.most_open, len(still))
                if len(still) < self.hold and len(self.runs()) < self.portions:
                    continue
                self.stopped.wait(0.1 if self.hold else 0)  # time for one too many
                for run in still:
                    attempt = (run.parameters["portion"], int(run.name.rpartition(" ")[2]))
                    if attempt not in self.begun:
                        self.begun.append(attempt)
                        self.script.get(attempt, Worker.complete)(self, run)

    def set(self, run, state) -> None:
        self.client.set_flow_run_state(run.id, state, force=True)

    def complete(self, run) -> None:
        keep_result(self.follower.plan, result(run.parameters["portion"], str(run.id)))
        self.set(run, Completed())

    def crash(self, run) -> None:
        self.set(run, Crashed(message="its process was killed"))

    def fail(self, run) -> None:
        keep_result(self.follower.plan, result(run.parameters["portion"], str(run.id), "no disk"))
        self.set(run, Failed())

    def cancel(self, run) -> None:
        self.set(run, Cancelled())

    def take(self, run) -> None:
        self.set(run, Pending())

    def begin(self, run) -> None:
        self.set(run, Running())

    def remove(self, run) -> None:
        self.begun.remove((run.parameters["portion"], 1))
        del self.script[(run.parameters["portion"], 1)]
        self.client.delete_flow_run(run.id)

    def leave(self, run) -> None:
        """Takes its time."""


def result(portion: int, run_id: str, *failures: str) -> PortionResult:
    counts = dict.fromkeys(("complete", "deferred", "failed", "elsewhere", "members", "scored", "excluded"), 0)
    return PortionResult(portion=portion, run_id=run_id, failures=list(failures), **counts)


@contextmanager
def working(follower: Follower, script=None):
    worker = Worker(follower, script or {})
    worker.start()
    yield worker
    worker.stopped.set()
    worker.join()


@pytest.fixture
def follower(deployment, tmp_path):
    plan_id = str(uuid.uuid4())
    (tmp_path / "leases").mkdir()
    patience = Patience(poll=0.02, pending=0.3, silence=0.3)
    children = ChildRuns(plan_id, deployment, "s3://bucket/laion/*.tar", {})
    return Follower(children, plan_path(str(tmp_path), plan_id), str(tmp_path / "leases"), 3, 2, patience)


@flow(name="a parent")
def follow(follower: Follower, portions: int) -> list[Ended]:
    return list(follower.follow(range(portions)))


def test_portions_are_done_by_one_run_each_and_never_more_at_once_than_allowed(follower):
    with working(follower) as worker:
        worker.hold, worker.portions = 3, 10
        ended = follow(follower, 10)
    assert sorted(one.portion for one in ended) == list(range(10))
    assert all(one.failure is None for one in ended)
    assert sorted(worker.begun) == [(portion, 1) for portion in range(10)]
    assert worker.most_open == 3


def test_what_dies_is_started_again_and_given_up_in_the_end(follower):
    script = {(0, 1): Worker.crash, (1, 1): Worker.fail, (1, 2): Worker.fail, (2, 1): Worker.cancel, (3, 1): Worker.remove}
    with working(follower, script) as worker:
        ended = {one.portion: one.failure for one in follow(follower, 5)}
    assert {portion for portion, failure in ended.items() if failure is None} == {0, 3, 4}
    assert "given up after 2 attempts; portion 1, attempt 2" in ended[1]
    assert ended[1].endswith("Failed: no disk")
    assert "Cancelled" in ended[2]
    assert sorted(worker.begun) == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (3, 1), (4, 1)]


def test_a_run_that_never_begins_and_one_whose_process_is_gone_are_declared_dead(follower):
    script = {(0, 1): Worker.take, (1, 1): Worker.begin}
    with working(follower, script):
        assert [one.failure for one in follow(follower, 2)] == [None, None]
        messages = {run.parameters["portion"]: run.state.message for run in worker_runs(follower) if run.state.is_crashed()}
    assert "did not begin it" in messages[0]
    assert messages[1] == "its process ended without a word"


def worker_runs(follower: Follower) -> list:
    with get_client(sync_client=True) as client:
        chosen = FlowRunFilter(tags=FlowRunFilterTags(all_=[f"plan:{follower.children.plan_id}"]))
        return client.read_flow_runs(flow_run_filter=chosen)


def test_a_running_child_whose_owner_lives_is_left_alone(follower):
    alive = threading.Event()

    def at_work(worker: Worker, run) -> None:
        worker.begin(run)
        with owner(follower.leases, str(run.id)):
            alive.wait(10 * follower.patience.silence)
            worker.complete(run)

    with working(follower, {(0, 1): at_work}) as worker:
        assert follow(follower, 1) == [Ended(0, None)]
    assert worker.begun == [(0, 1)]


def test_a_second_parent_follows_the_runs_of_the_first(follower):
    """Also those of an attempt that was not the first, and those that ended between the two parents."""
    children = follower.children
    for portion, attempts in ((0, 1), (1, 12), (2, 1)):
        for attempt in range(1, attempts + 1):
            children.start(portion, attempt)
    with working(follower, {(1, attempt): Worker.crash for attempt in range(1, 12)} | {(1, 12): Worker.leave}) as worker:
        while len(worker.begun) < 14 or worker.script:
            if len(worker.begun) == 14:
                worker.script = {}
            time.sleep(0.02)
    with working(follower) as worker:
        assert {one.portion: one.failure for one in follow(follower, 4)} == dict.fromkeys(range(4))
    assert sorted(worker.begun) == [(1, 12), (3, 1)]
    assert len(worker_runs(follower)) == 15


def test_one_key_starts_one_run_whoever_asks(follower):
    for _ in range(3):
        follower.children.start(7, 1)
    assert len(worker_runs(follower)) == 1
    other = ChildRuns(str(uuid.uuid4()), DEPLOYMENT, "s", {})
    assert len({other.key(1, 1), other.key(1, 2), other.key(11, 1), follower.children.key(1, 1)}) == 4


def test_more_runs_than_a_server_gives_at_once_are_read(follower):
    asked = [(portion, 1) for portion in range(201)]
    for attempt in asked[:2] + asked[-2:]:
        follower.children.start(*attempt)
    assert set(follower.children.read(asked)) == {(0, 1), (1, 1), (199, 1), (200, 1)}


def test_a_deployment_that_the_server_does_not_know_is_refused(deployment):
    require_deployment(deployment)
    with pytest.raises(MdmfError, match="knows no deployment 'followed/nowhere'; send it with `prefect deploy --all`"):
        require_deployment("followed/nowhere")
