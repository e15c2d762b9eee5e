"""Child runs are followed to their end: a bounded number at once, and another attempt for each that dies."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from prefect import get_run_logger
from prefect.client.schemas.objects import FlowRun, State

from tasks.parts.leases import EXPIRY, live_runs
from tasks.runs.fan_out.child_runs import ChildRuns
from tasks.runs.fan_out.portions import result_of


@dataclass(frozen=True)
class Patience:
    """How long the parent waits for its child runs before it acts, in seconds."""

    poll: float = 2.0  # between two looks at all open runs
    pending: float = 1800.0  # for a worker that took a run and did not begin it
    silence: float = EXPIRY  # between two looks whether a running child lives; the second that finds it dead counts


@dataclass(frozen=True)
class Ended:
    """A portion that is done or given up."""

    portion: int
    failure: str | None  # None = it is done


@dataclass
class _Open:
    """A portion whose run has not ended, and since when the run has been in its state."""

    attempt: int
    tries: int = 1  # attempts of this parent
    state: object = None
    since: float = 0.0
    looked: float = 0.0  # when its owner was last looked for
    missed: int = 0  # looks that found it dead

    def note(self, state: State) -> float:
        """Notes the run's state and returns for how many seconds the run has been in it."""
        now = time.monotonic()
        if self.state != state.id:
            self.state, self.since, self.looked, self.missed = state.id, now, now, 0
        return now - self.since


@dataclass(frozen=True)
class Follower:
    """Carries a plan's portions out by child runs.

    Two followers of one plan do no harm: both ask for the same keys, so that both follow the same runs.
    """

    children: ChildRuns
    plan: str  # its path
    leases: str  # folder
    runs_at_once: int
    attempts: int
    patience: Patience = Patience()

    def follow(self, portions: Iterable[int]) -> Iterator[Ended]:
        """Gives each portion once it is done or given up; a run that an earlier parent started is not started again."""
        waiting, still = iter(portions), dict[int, _Open]()
        while True:
            still |= self._opened(list(islice(waiting, self.runs_at_once - len(still))))
            if not still:
                return
            runs = self.children.read([(portion, child.attempt) for portion, child in still.items()])
            ended = []
            for portion, child in still.items():
                found = self._look(portion, child, runs.get((portion, child.attempt)))
                ended += [found] if found else []
            for one in ended:
                del still[one.portion]
                yield one
            if not ended:
                time.sleep(self.patience.poll)

    def _opened(self, portions: list[int]) -> dict[int, _Open]:
        """Starts a run for each portion, unless a run for the portion has not ended yet."""
        found, fresh = self.children.newest(portions) if portions else {}, {}
        for portion in portions:
            attempt, run = found.get(portion, (0, None))
            fresh[portion] = _Open(attempt)
            if run is None or (run.state is not None and run.state.is_final() and not self._done(portion)):
                self._start(portion, fresh[portion])
        return fresh

    def _start(self, portion: int, child: _Open) -> None:
        child.attempt += 1
        self.children.start(portion, child.attempt)

    def _done(self, portion: int) -> bool:
        result = result_of(self.plan, portion)
        return result is not None and not result.failures

    def _look(self, portion: int, child: _Open, run: FlowRun | None) -> Ended | None:
        if run is None or run.state is None:  # somebody removed it from the server
            self.children.start(portion, child.attempt)
            return None
        seconds = child.note(run.state)
        if not run.state.is_final():
            why = self._dead(run, run.state, child, seconds)
            if why is not None:
                self.children.declare_dead(run, why)
            return None
        if self._done(portion):
            return Ended(portion, None)
        what = f"portion {portion}, attempt {child.attempt} (run {run.id}): {run.state.name}: {self._why(portion, run)}"
        if run.state.is_cancelled():
            return Ended(portion, what)
        if child.tries >= self.attempts:
            return Ended(portion, f"given up after {child.tries} attempts; {what}")
        get_run_logger().warning("%s; it is started again", what)
        child.tries += 1
        self._start(portion, child)
        return None

    def _why(self, portion: int, run: FlowRun) -> str:
        result = result_of(self.plan, portion)
        if result is not None and result.run_id == str(run.id):
            return "; ".join(result.failures)
        return (run.state and run.state.message) or "it left no result"

    def _dead(self, run: FlowRun, state: State, child: _Open, seconds: float) -> str | None:
        """Returns why a run that has not ended never will; None = the run may still end by itself."""
        if state.is_pending() and seconds > self.patience.pending:
            return f"a worker took it and did not begin it for {seconds:.0f} s"
        now = time.monotonic()
        if not state.is_running() or now - child.looked < self.patience.silence:
            return None
        child.looked = now
        child.missed = 0 if str(run.id) in live_runs(self.leases) else child.missed + 1
        return "its process ended without a word" if child.missed > 1 else None
