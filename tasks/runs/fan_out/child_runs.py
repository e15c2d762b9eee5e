"""Child runs are started at the Prefect server, once for each key, read many at a time, and declared dead."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterIdempotencyKey
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Crashed
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from mdmf_core.digests import digest_of
from mdmf_core.errors import MdmfError
from tasks.parts.plans import batched
from tasks.runs.names import short_source

_PAGE = 200  # runs that a server gives at once
_TRIES = 10  # attempts that are asked for at once; more are rare
_OUTAGE = 3600.0  # seconds without a server that a parent waits through
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class ChildRuns:
    """Starts and reads the child runs of one plan."""

    plan_id: str
    deployment: str  # FLOW/DEPLOYMENT
    source: str
    parameters: dict[str, Any]  # of every child, beside its portion

    def key(self, portion: int, attempt: int) -> str:
        """The idempotency key of one attempt: the server starts one run for it, however often and by whomever it is asked."""
        return digest_of({"plan": self.plan_id, "portion": portion, "attempt": attempt})

    def start(self, portion: int, attempt: int) -> None:
        """Starts one attempt at a portion, unless it was started before."""
        parameters = self.parameters | {"portion": portion}
        name = f"{short_source(self.source)[-150:]} portion {portion} attempt {attempt}"
        _patiently(
            lambda: run_deployment(
                self.deployment, parameters=parameters, flow_run_name=name, timeout=0, tags=["mdmf", f"plan:{self.plan_id}"],
                idempotency_key=self.key(portion, attempt),
            )
        )  # fmt: skip

    def read(self, attempts: Sequence[tuple[int, int]]) -> dict[tuple[int, int], FlowRun]:
        """Returns the runs of these attempts (portion, number), two hundred a request; leaves out attempts never started."""
        keys = {self.key(*attempt): attempt for attempt in attempts}
        found = {}
        for some in batched(keys, _PAGE):
            chosen = FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=some))
            for run in _patiently(lambda chosen=chosen: _read(chosen)):
                found[keys[run.idempotency_key or ""]] = run
        return found

    def newest(self, portions: Sequence[int]) -> dict[int, tuple[int, FlowRun]]:
        """Returns the number of the last attempt that any parent started at each of these portions."""
        last: dict[int, tuple[int, FlowRun]] = {}
        first, asked = 1, list(portions)
        while asked:
            found = self.read([(portion, first + n) for portion in asked for n in range(_TRIES)])
            for (portion, attempt), run in sorted(found.items(), key=lambda item: item[0]):
                last[portion] = (attempt, run)
            first += _TRIES
            asked = [portion for portion in asked if portion in last and last[portion][0] == first - 1]
        return last

    def declare_dead(self, run: FlowRun, why: str) -> None:
        """Marks a run as crashed at the server. If it is alive after all, it may not begin, and keeps its leases."""
        with get_client(sync_client=True) as client:
            _patiently(lambda: client.set_flow_run_state(run.id, Crashed(message=why), force=True))


def require_deployment(name: str) -> None:
    """Raises MdmfError when the server does not know the deployment."""
    try:
        with get_client(sync_client=True) as client:
            _patiently(lambda: client.read_deployment_by_name(name))
    except ObjectNotFound as error:
        raise MdmfError(
            f"the Prefect server knows no deployment {name!r}; send it with `prefect deploy --all`, or name another"
        ) from error


def _read(chosen: FlowRunFilter) -> list[FlowRun]:
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_run_filter=chosen, limit=_PAGE)


def _patiently(ask: Callable[[], Answer]) -> Answer:
    """Asks the server, which may be away for a while (restarted, upgraded, overloaded), and waits for its answer."""
    tries = Retrying(
        retry=retry_if_exception(_may_pass), stop=stop_after_delay(_OUTAGE), wait=wait_random_exponential(max=15), reraise=True
    )
    return tries(ask)


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, PrefectHTTPStatusError):
        return error.response.status_code >= 500
    return isinstance(error, httpx.TransportError)
