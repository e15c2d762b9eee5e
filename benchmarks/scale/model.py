"""A corpus on its way through a fleet, as discrete events: what waits for what, and what is busy.

The parts of the design that are shared and so can break first are resources: the lister, the Prefect server, the committer
(one for an embedded warehouse) or the lake's catalog. Everything else runs in parallel, one process per worker. Costs are
seconds, measured by ``measure.py``; nothing here is fitted to a run that the model is compared with.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import simpy


@dataclass(frozen=True)
class Costs:
    """Seconds. ``*_share`` and ``*_sigma`` are numbers."""

    before: float  # from a run's start to its plan
    list_shard: float  # lister, per shard of the corpus
    run_start: float  # from the order of a child run to its first group
    task: float  # of a score task, beside its shards
    server_task: float  # of the Prefect server's own time per task run
    shard: float  # of a worker per shard: lease, opening, part
    image: float  # of a worker per image
    land_group: float  # of the committer per group
    land_shard: float  # and per shard
    after: float  # report, closing
    commit: float = 0.0  # lake: the catalog's own time per commit, one after another
    prepare: float = 0.0  # lake: the writer's time per commit, in parallel
    conflict_share: float = 0.0  # lake: of commits that another one overtook, how many must begin again
    detect: float = 60.0  # until a dead worker's shards are taken over
    straggler_sigma: float = 0.0  # of the logarithm of a group's time


@dataclass(frozen=True)
class Fleet:
    """What a user chooses."""

    workers: int = 1
    shards_per_task: int = 4
    shards_per_run: int = 200  # of a child; all of them where there is no parent
    lake: bool = False
    overlap: bool = True  # a run lands a group while it scores the next one
    hours_between_deaths: float = float("inf")  # of one worker, in the mean


@dataclass
class Outcome:
    """What a simulated corpus took. Times in seconds."""

    seconds: float = 0.0
    scoring: float = 0.0  # of all workers, for results that landed
    wasted: float = 0.0  # of all workers, for results that were lost
    deaths: int = 0
    conflicts: int = 0
    commits: int = 0
    commit_wait: float = 0.0  # in the mean
    busy: dict[str, float] = field(default_factory=dict)  # share of the whole time, by resource
    tail: float = 0.0  # from the first worker without work to the end


class _Counted:
    """A resource that is taken one at a time and adds up how long it was."""

    def __init__(self, env: simpy.Environment, capacity: int = 1) -> None:
        self.env, self.resource, self.busy, self.waited, self.uses = env, simpy.Resource(env, capacity), 0.0, 0.0, 0

    def use(self, seconds: float) -> Iterator[Any]:
        asked = self.env.now
        with self.resource.request() as turn:
            yield turn
            self.waited += self.env.now - asked
            self.uses += 1
            yield self.env.timeout(seconds)
            self.busy += seconds


class _Corpus:
    """The state of one simulation."""

    def __init__(self, costs: Costs, fleet: Fleet, shards: int, images: int, seed: int) -> None:
        self.costs, self.fleet, self.images = costs, fleet, images
        self.env = simpy.Environment()
        self.random = np.random.default_rng(seed)
        self.server, self.committer = _Counted(self.env), _Counted(self.env)
        self.orders: simpy.Store = simpy.Store(self.env, capacity=max(1, fleet.workers))  # the window of the parent
        self.shards, self.outcome, self.last_commit, self.idle_since = shards, Outcome(), -1.0, float("inf")

    def lister(self) -> Iterator[Any]:
        """Lists and plans, and orders child runs; a full window makes it wait."""
        per_run = min(self.fleet.shards_per_run, self.shards)
        for first in range(0, self.shards, per_run):
            count = min(per_run, self.shards - first)
            yield self.env.timeout(count * self.costs.list_shard)
            yield self.orders.put(count)
        for _ in range(self.fleet.workers):
            yield self.orders.put(0)

    def worker(self) -> Iterator[Any]:
        while count := (yield self.orders.get()):
            yield from self.server.use(self.costs.server_task)
            yield self.env.timeout(self.costs.run_start)
            landings = []
            for first in range(0, count, self.fleet.shards_per_task):
                some = min(self.fleet.shards_per_task, count - first)
                yield from self.server.use(self.costs.server_task)
                yield from self.score(some)
                landing = self.env.process(self.land(some))
                landings.append(landing)
                if not self.fleet.overlap:
                    yield landing
            yield self.env.all_of(landings)
        self.idle_since = min(self.idle_since, self.env.now)

    def score(self, shards: int) -> Iterator[Any]:
        """A group's scoring; a death costs the shard that it strikes, and the time until somebody notices."""
        each = self.costs.shard + self.images * self.costs.image
        sigma = self.costs.straggler_sigma
        each *= float(self.random.lognormal(-(sigma**2) / 2, sigma)) if sigma else 1.0
        yield self.env.timeout(self.costs.task)
        left = shards * each
        while True:
            death = float(self.random.exponential(self.fleet.hours_between_deaths * 3600))
            if death >= left:
                break
            lost = death % each
            left -= death - lost
            self.outcome.deaths += 1
            self.outcome.wasted += lost
            yield self.env.timeout(death + self.costs.detect + self.costs.run_start)
        yield self.env.timeout(left)
        self.outcome.scoring += shards * each

    def land(self, shards: int) -> Iterator[Any]:
        yield from self.server.use(self.costs.server_task)
        self.outcome.commits += 1
        if not self.fleet.lake:
            yield from self.committer.use(self.costs.land_group + shards * self.costs.land_shard)
            return
        while True:
            began = self.env.now
            yield self.env.timeout(self.costs.prepare)
            yield from self.committer.use(self.costs.commit)
            if self.last_commit <= began or self.random.random() >= self.costs.conflict_share:
                self.last_commit = self.env.now  # one that must begin again has overtaken nobody
                return
            self.outcome.conflicts += 1


def simulate(costs: Costs, fleet: Fleet, shards: int, images: int, seed: int = 0) -> Outcome:
    """What so many shards of ``images`` images each take.

    Raises:
        ValueError: nothing to do or nobody to do it.
    """
    if min(shards, fleet.workers, fleet.shards_per_task, fleet.shards_per_run) < 1:
        raise ValueError(f"shards, workers and sizes must be at least 1, got {shards} and {fleet}")
    corpus = _Corpus(costs, fleet, shards, images, seed)
    corpus.env.process(corpus.lister())
    for _ in range(fleet.workers):
        corpus.env.process(corpus.worker())
    corpus.env.run()
    seconds = corpus.env.now + costs.before + costs.after
    listing = shards * costs.list_shard
    outcome = corpus.outcome
    busy = {
        "listing": listing / seconds,
        "Prefect server": corpus.server.busy / seconds,
        "catalog" if fleet.lake else "committer": corpus.committer.busy / seconds,
        "workers": outcome.scoring / (fleet.workers * seconds),
    }
    return replace(
        outcome,
        seconds=seconds,
        commit_wait=corpus.committer.waited / max(1, corpus.committer.uses),
        busy=busy,
        tail=corpus.env.now - corpus.idle_since,
    )
