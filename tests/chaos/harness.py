"""Kills real runs, starts them again, and compares what is left with an undisturbed run."""

import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from fabricate import encoded, write_shard
from victim import NEVER, curate

from tasks.maintenance.content_digest import content_digest
from tasks.warehouse.warehouse import Warehouse


@dataclass
class Trial:
    """One disturbed warehouse."""

    what: str
    died: bool  # whether the kill came before the run ended
    same: bool  # whether, after one more run, the content is that of the undisturbed one
    lost: int = 0  # members without a verdict
    twice: int = 0  # members with two
    seconds: float = 0.0  # that the run after it took
    peak_mb: float = 0.0  # resident memory of that run


@dataclass
class Race(Trial):
    """Several runs on the same shards at once."""

    parts_written: int = 0  # by those that lived; more than the shards there are = work done twice


@dataclass
class Chaos:
    """Shards, a scorer, and what an undisturbed run makes of them."""

    folder: Path
    scorer: str
    bank: str
    context: ForkServerContext = field(default_factory=lambda: multiprocessing.get_context("forkserver"))
    members: int = 0
    digest: str = ""
    seconds: float = 0.0
    steps: list[str] = field(default_factory=list)

    def prepare(self, shards: int = 3) -> None:
        """Writes the shards, runs once undisturbed, and learns the steps."""
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # where the fork server finds what it imports once for all
        self.context.set_forkserver_preload(["victim"])
        (self.folder / "source").mkdir(parents=True)
        for number in range(shards):
            extra = {"page.jpg": b"<html>", "cut.jpg": encoded(900)[:2000]} if number == 1 else {}
            write_shard(self.folder / "source" / f"{number:05d}.tar", range(number * 10, number * 10 + 4), extra)
        self.run("warm")  # imports are done once, in the fork server
        log = str(self.folder / "steps.log")
        started = time.monotonic()
        warehouse = self.run("undisturbed", log=log)
        self.seconds = time.monotonic() - started
        self.steps = Path(log).read_text().splitlines()
        self.digest, self.members, _ = look(warehouse)

    def parameters(self, warehouse: str, source: Path | str | None = None) -> dict[str, Any]:
        return {
            "source": f"{source or self.folder / 'source'}/*.tar", "warehouse": warehouse, "scorer": self.scorer,
            "bank": self.bank, "shards_per_task": 2, "batch_images": 4, "decode_threads": 1, "device": "cpu",
        }  # fmt: skip

    def start(
        self,
        name: str,
        step: int = NEVER,
        after: bool = False,
        log: str | None = None,
        source: Path | str | None = None,
        store: dict[str, str] | None = None,
    ) -> tuple[str, ForkServerProcess]:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        warehouse = str(folder / "w.duckdb")
        process = self.context.Process(target=curate, args=(self.parameters(warehouse, source), step, after, log, store))
        process.start()
        return warehouse, process

    def run(
        self, name: str, log: str | None = None, source: Path | str | None = None, store: dict[str, str] | None = None
    ) -> str:
        warehouse, process = self.start(name, log=log, source=source, store=store)
        process.join()
        return warehouse

    def at_work(self, name: str) -> tuple[str, ForkServerProcess]:
        """Starts a run and returns once it holds a lease."""
        warehouse, process = self.start(name)
        held = Path(Warehouse.at(warehouse).leases) / "held"
        while not (held.is_dir() and any(held.iterdir())):
            if not process.is_alive():
                raise RuntimeError(f"{name} ended before it held a lease")
            time.sleep(0.01)
        return warehouse, process

    def killed_at_step(self, step: int, after: bool) -> Trial:
        """Kills a run around one of its steps."""
        name = f"step{step}{'after' if after else 'before'}"
        warehouse, process = self.start(name, step, after)
        process.join()
        what = f"{'after' if after else 'before'} step {step}, {self.steps[step]}"
        return self.judged(what, warehouse, process.exitcode == -signal.SIGKILL)

    def killed_at_moment(self, number: int, seed: int = 0) -> Trial:
        """Kills a run at a moment drawn from its length."""
        moment = random.Random(f"{seed} {number}").uniform(0, self.seconds)
        warehouse, process = self.start(f"moment{number}")
        time.sleep(moment)
        process.kill()
        process.join()
        return self.judged(f"after {moment:.2f} s", warehouse, process.exitcode == -signal.SIGKILL)

    def race(self, name: str, runs: int, shards: int, killed: int) -> Race:
        """Starts some runs at once on the same shards, kills some of them halfway, and runs once more."""
        source = self.folder / f"{name}-source"
        source.mkdir()
        for number in range(shards):
            write_shard(source / f"{number:05d}.tar", range(number * 2, number * 2 + 2))
        alone = self.run(f"{name}-alone", source=source)
        digest, members, _ = look(alone)
        logs = [str(self.folder / f"{name}-{number}.log") for number in range(runs)]
        started = [self.start(name, log=log, source=source) for log in logs]
        warehouse = started[0][0]
        if killed:
            time.sleep(self.seconds / 2)
        for _, process in started[:killed]:
            process.kill()
        for _, process in started:
            process.join()
        written = sum(Path(log).read_text().splitlines().count("replace scores") for log in logs if Path(log).exists())
        began = time.monotonic()
        self.run(name, source=source)
        seconds = time.monotonic() - began
        found, found_members, twice = look(warehouse)
        died = any(process.exitcode == -signal.SIGKILL for _, process in started)
        what = f"{runs} runs at once, {killed} killed"
        lost = members - found_members
        return Race(what, died, found == digest, lost, twice, seconds, peak_mb(warehouse), written)

    def judged(self, what: str, warehouse: str, died: bool) -> Trial:
        """Runs again, undisturbed, and compares."""
        started = time.monotonic()
        self.run(Path(warehouse).parent.name)
        trial = self.compared(what, warehouse, died, time.monotonic() - started, peak_mb(warehouse))
        if trial.same:
            shutil.rmtree(Path(warehouse).parent)
        return trial

    def compared(self, what: str, warehouse: str, died: bool, seconds: float, peak: float = 0.0) -> Trial:
        """Compares a warehouse with the undisturbed one."""
        digest, members, twice = look(warehouse)
        return Trial(what, died, digest == self.digest, self.members - members, twice, seconds, peak)


def peak_mb(warehouse: str) -> float:
    """Gives the resident memory of the last run that ended by itself, in MB."""
    return int(Path(warehouse).with_name("peak").read_text()) / 1024


def look(warehouse: str) -> tuple[str, int, int]:
    """Gives the content digest, the members with a verdict, and the members with more than one."""
    with Warehouse.at(warehouse).connect(read_only=True) as connection:
        members, twice = connection.execute(
            "SELECT count(DISTINCT (url, key))::INT, (count(*) - count(DISTINCT (url, key)))::INT FROM ("
            "SELECT sh.url, i.key FROM scores JOIN images i USING (image_id, shard_id) JOIN shards sh USING (shard_id) "
            "UNION ALL SELECT sh.url, e.key FROM exclusions e JOIN shards sh USING (shard_id))"
        ).fetchall()[0]
        return content_digest(connection), members, twice
