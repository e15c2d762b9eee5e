"""``make chaos``: disturbs real runs in every way that is known here, and writes what came of it into docs/reliability.md."""

import argparse
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import timm
import torch
from corpus import corpus
from fabricate import ROOT, build_settings, encoded, write_shard, write_tar
from fault_proxy import FAULTS, evenly, fault_proxy
from harness import Chaos, Trial, look, peak_mb
from peer import deliver
from s3_server import KEY, SECRET, s3_server
from safetensors.torch import save_file
from worker import kill_worker_and_run

from mdmf_cli.local_prefect import LocalPrefect, local_prefect
from tasks.banks.build import build
from tasks.scoring.loading import load_scorer
from tasks.warehouse.warehouse import Warehouse

BEGIN, END = "<!-- made by make chaos -->", "<!-- end -->"
_RACES, _KILLED_WORKERS, _BROKEN_RUNS = 5, 3, 5


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--moments", type=int, default=100, help="random moments at which a run is killed")
    arguments.add_argument("--page", type=Path, default=ROOT / "docs" / "reliability.md")
    options = arguments.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mdmf-chaos-") as folder, local_prefect(ROOT, Path(folder) / "prefect") as prefect:
        os.environ.update({name: value for name, value in prefect.environment.items() if name.startswith("PREFECT")})
        os.environ["PREFECT_LOGGING_LEVEL"] = "ERROR"
        chaos = Chaos(Path(folder) / "chaos", *_scorer(Path(folder)))
        chaos.prepare()
        results = [(name, list(trials)) for name, trials in _scenarios(chaos, prefect, options.moments)]
        rows = [_row(name, trials) for name, trials in results] + [_corpus_row(chaos)]
        peers = _peer_rows(chaos)
    undisturbed = f"An undisturbed run takes {chaos.seconds:.1f} s; it has {len(chaos.steps)} steps that leave a trace."
    _write(options.page, [*_HEAD, *rows, "", undisturbed, "", *_PEER_HEAD, *peers, "", _machine(time.monotonic() - started)])
    bad = [trial for _, trials in results for trial in trials if not trial.same or trial.lost or trial.twice]
    if bad:
        raise SystemExit("\n".join(["not the content of an undisturbed run:", *map(str, bad)]))


_HEAD = [
    "| fault injected | runs | of which it struck | members without a verdict | members with two | same content "
    "| peak memory, MB | longest run after it, s |",
    "|---|---:|---:|---:|---:|---|---:|---:|",
]
_PEER_HEAD = [
    "| the same shards through | members | with a verdict or delivered | silently missing | ended |",
    "|---|---:|---:|---:|---|",
]


def _scorer(folder: Path) -> tuple[str, str]:
    """A small real ViT with seeded weights, and its bank."""
    torch.manual_seed(0)
    save_file(timm.create_model("vit_tiny_patch16_224", pretrained=False).state_dict(), folder / "tiny.safetensors")
    scorer = f"timm:vit_tiny_patch16_224?weights={folder}/tiny.safetensors"
    (folder / "real").mkdir()
    for seed in range(1000, 1080):
        (folder / "real" / f"{seed}.jpg").write_bytes(encoded(seed))
    return scorer, build(build_settings(folder / "real", folder / "banks", scorer), load_scorer(scorer, "cpu")).directory


def _scenarios(chaos: Chaos, prefect: LocalPrefect, moments: int) -> Iterator[tuple[str, Iterator[Trial]]]:
    steps = range(len(chaos.steps))
    yield (
        "SIGKILL of the run, before and after each step",
        (chaos.killed_at_step(n, after) for n in steps for after in (False, True)),
    )
    yield f"SIGKILL of the run at {moments} random moments", (chaos.killed_at_moment(n) for n in range(moments))
    yield "4 runs at once on 20 shards", (chaos.race(f"race{n}", 4, 20, 0) for n in range(_RACES))
    yield "4 runs at once on 20 shards, 2 of them killed", (chaos.race(f"mortal{n}", 4, 20, 2) for n in range(_RACES))
    yield "SIGKILL of worker and run, reaper, next run of the deployment", _workers(chaos, prefect)
    for share in (0.05, 0.3):
        name = f"{100 * share:.0f} % of S3 requests broken: 500, 503, clock skew, resets, short and flipped bodies, stalls"
        yield name, _faults(chaos, share)


def _workers(chaos: Chaos, prefect: LocalPrefect) -> Iterator[Trial]:
    prefect.run("--no-prompt", "deploy", "--all")
    for number in range(_KILLED_WORKERS):
        folder = chaos.folder / f"worker{number}"
        folder.mkdir()
        parameters = chaos.parameters(str(folder / "w.duckdb"))
        started = time.monotonic()
        before, after = kill_worker_and_run(prefect, parameters)
        if (before, after) != ("RUNNING", "CRASHED"):
            raise SystemExit(f"Prefect has the killed run as {before}, and as {after} after the reaper")
        yield chaos.compared("worker and run killed", str(folder / "w.duckdb"), True, time.monotonic() - started)


def _faults(chaos: Chaos, share: float) -> Iterator[Trial]:
    with s3_server(chaos.folder / f"s3-{share}") as (bucket, endpoint), fault_proxy(endpoint) as proxy:
        for path in (chaos.folder / "source").iterdir():
            shutil.copy(path, bucket / path.name)
        store = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}
        expected, members, _ = look(
            chaos.run(f"calm-{share}", source="s3://corpus", store=store | {"AWS_ENDPOINT_URL": endpoint})
        )
        for number in range(_BROKEN_RUNS):
            proxy.chances = evenly(share, FAULTS)
            started = time.monotonic()
            name = f"broken-{share}-{number}"
            warehouse = chaos.run(name, source="s3://corpus", store=store | {"AWS_ENDPOINT_URL": proxy.url})
            seconds = time.monotonic() - started
            digest, found, twice = look(warehouse)
            struck = proxy.injected.total() > 0
            yield Trial(name, struck, digest == expected, members - found, twice, seconds, peak_mb(warehouse))


def _row(name: str, trials: Sequence[Trial]) -> str:
    return _cells(
        name,
        len(trials),
        sum(trial.died for trial in trials) or "",
        sum(max(0, trial.lost) for trial in trials),
        sum(trial.twice for trial in trials),
        f"{sum(trial.same for trial in trials)} of {len(trials)}",
        f"{max(trial.peak_mb for trial in trials):.0f}" if trials[0].peak_mb else "",
        f"{max(trial.seconds for trial in trials):.1f}",
    )


def _cells(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _corpus_row(chaos: Chaos) -> str:
    """Every damaged and hostile image in one shard."""
    files = {f"{entry.name.replace('.', '_')}.jpg": entry.data for entry in corpus()}
    source = chaos.folder / "corpus"
    source.mkdir()
    write_tar(source / "00000.tar", files)
    started = time.monotonic()
    warehouse = chaos.run("corpus-run", source=source)
    seconds = time.monotonic() - started
    _, members, twice = look(warehouse)
    with Warehouse.at(warehouse).connect(read_only=True) as connection:
        scored, excluded = connection.execute("SELECT scored, excluded FROM accounting").fetchall()[0]
    name = f"a shard of {len(files)} damaged and hostile images: {scored} scored, {excluded} excluded with a reason"
    return _cells(name, 1, 1, len(files) - members, twice, "", f"{peak_mb(warehouse):.0f}", f"{seconds:.1f}")


def _peer_rows(chaos: Chaos) -> list[str]:
    """Three whole shards, one with damaged members, one cut off: ours, and the usual loop with and without its handler."""
    source = chaos.folder / "peer"
    source.mkdir()
    shards = [write_shard(source / f"{n:05d}.tar", range(n * 20, n * 20 + 20)) for n in range(3)]
    bad = {"cut.jpg": encoded(900)[:2000], "page.jpg": b"<html>", "zero.jpg": b"", "noise.jpg": bytes(range(256)) * 8}
    shards.append(write_shard(source / "00003.tar", range(60, 80), bad))
    shards.append(write_shard(source / "00004.tar", range(80, 100)))
    shards[-1].write_bytes(shards[-1].read_bytes()[: shards[-1].stat().st_size // 2])
    members = 5 * 20 + len(bad)
    warehouse = chaos.run("peer-run", source=source)
    with Warehouse.at(warehouse).connect(read_only=True) as connection:
        known = connection.execute("SELECT sum(members)::INT FROM accounting").fetchall()[0][0]
        deferred = connection.execute("SELECT count(*) FROM accounting WHERE state = 'deferred'").fetchall()[0][0]
    rows = [
        _cells("mdmf curate", members, known, 0, f"to the end; {deferred} shard deferred, with its reason, for the next run")
    ]
    for handler, carry_on in (("as it comes", False), ("with warn_and_continue", True)):
        found = deliver(shards, carry_on)
        missing = members - found.images
        rows.append(_cells(f"webdataset in a torch DataLoader, {handler}", members, found.images, missing, found.ended))
    return rows


def _machine(seconds: float) -> str:
    return (
        f"Made in {seconds / 60:.0f} minutes on {os.cpu_count()} cores, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, with a tiny ViT so that many runs fit. The command fails when a row is lost or "
        "doubled."
    )


def _write(page: Path, lines: list[str]) -> None:
    text = page.read_text()
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
