"""The command `mdmf demo` runs the main job on the bundled shards, as a user would, and shows the result."""

import csv
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdmf_cli.console import console, plain_errors, print_rows
from mdmf_cli.local_prefect import LocalPrefect, local_prefect
from mdmf_core.errors import MdmfError

if TYPE_CHECKING:
    from tasks.warehouse.warehouse import Warehouse

_DEPLOYMENT = "curate/laion-shard"
_WAREHOUSE = "warehouse.duckdb"  # as prefect.yaml says
_FLAGGED = "SELECT key, score, p_value FROM flagged(0.05)"


def demo(
    keep_going: Annotated[bool, typer.Option(help="Leave server and worker running afterwards, to look at its pages.")] = False,
) -> None:
    """Run the main job end to end on the bundled shards: server, worker, deployment, results. Then stop what was started."""
    with plain_errors():
        run_demo(keep_going)


def run_demo(keep_going: bool) -> None:
    """Starts server and worker, sends the deployments, runs one and shows what it found.

    Raises:
        MdmfError: a step failed; the text says which and where its log lies.
    """
    root = Path(__file__).resolve().parent.parent
    if not (root / "prefect.yaml").exists() or not (root / "samples").exists():
        raise MdmfError("the demo runs from a clone of the repository, where prefect.yaml and samples/ lie")
    started = time.monotonic()

    def step(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - started:6.1f} s[/]  {text}", highlight=False, soft_wrap=True)

    step("starting a Prefect server on loopback (nothing is installed outside this folder)")
    with local_prefect(root, root / ".mdmf") as prefect:
        step(f"server at {prefect.ui}; `prefect --no-prompt deploy --all`")
        prefect.run("--no-prompt", "deploy", "--all")
        step(f"`prefect deployment run {_DEPLOYMENT} --watch`; the worker says:")
        _run_deployment(prefect, step)
        step("done")
        show_results(root)
        if keep_going:
            console.print(f"\nThe Prefect UI is at {prefect.ui}; Ctrl-C stops it.")
            try:
                while True:
                    time.sleep(3600)
            except KeyboardInterrupt:
                pass


def _run_deployment(prefect: LocalPrefect, step: Callable[[str], None]) -> None:
    log = prefect.home / "worker.log"
    finished = threading.Event()
    follower = threading.Thread(target=_follow, args=(log, finished, step), daemon=True)
    follower.start()
    try:
        prefect.run("deployment", "run", _DEPLOYMENT, "--param", "promote=true", "--watch", "--watch-interval", "1")
    except MdmfError as error:
        raise MdmfError(f"the run failed; the worker's log is {log}\n{error}") from error
    finally:
        finished.set()
        follower.join()


def _follow(log: Path, finished: threading.Event, step: Callable[[str], None]) -> None:
    """Prints the run's own log lines as they come."""
    with log.open(errors="replace") as lines:
        while True:
            line = lines.readline()
            if not line:
                if finished.is_set():
                    return
                time.sleep(0.1)
            elif "run '" in line and " - " in line and "Finished in state Completed" not in line:
                step("  " + line.split(" - ", 1)[1].strip()[:160])


def show_results(root: Path) -> None:
    """Prints the accounting, both ends of the ranking with their SQL, and how well the score did on the labels."""
    from tasks.report.galleries import MOST_GENERATED, MOST_REAL
    from tasks.warehouse.questions import query
    from tasks.warehouse.warehouse import Warehouse

    warehouse = Warehouse.at(str(root / _WAREHOUSE))
    shards = f"WHERE url LIKE '{str(root).replace(chr(39), chr(39) * 2)}/samples/laion-mini/%'"
    totals = query(
        warehouse, f"SELECT sum(members)::INT m, sum(scored)::INT s, sum(excluded)::INT e FROM accounting {shards}"
    ).iloc[0]
    console.print(f"\n[bold]{totals.m} members = {totals.s} scored + {totals.e} excluded[/]", highlight=False)
    for title, sql in (
        (
            "Excluded, by reason",
            "SELECT reason, count(*) AS members, min(detail) AS example FROM excluded GROUP BY reason ORDER BY reason",
        ),
        ("Ten most likely generated", MOST_GENERATED.format(n=10)),
        ("Ten most likely real", MOST_REAL.format(n=10)),
        ("Flagged at a false-positive budget of 5 %", f"SELECT count(*) AS flagged FROM ({_FLAGGED})"),
    ):
        rows = query(warehouse, sql)
        console.print(f"\n[bold]{title}[/]\n[dim]{sql}[/]", highlight=False, soft_wrap=True)
        print_rows(rows.to_dict("records"), [str(name) for name in rows.columns])
    _show_auroc(warehouse, root)
    console.print(f"\nreport page: {warehouse.report}/index.html", highlight=False, soft_wrap=True)
    console.print(f'ask more:    mdmf sql "{_FLAGGED}"   (or: duckdb {_WAREHOUSE})', highlight=False, soft_wrap=True)


def _show_auroc(warehouse: "Warehouse", root: Path) -> None:
    from mdmf_core.training.figures import auroc, auroc_interval
    from tasks.warehouse.questions import query

    with (root / "samples" / "labels.csv").open() as file:
        labels = {row["key"]: row for row in csv.DictReader(file)}
    frame = query(warehouse, "SELECT key, score FROM scored WHERE shard_url LIKE '%/samples/laion-mini/%'")
    frame["label"] = [labels[key]["label"] for key in frame["key"]]
    frame["origin"] = [labels[key]["source"] for key in frame["key"]]
    real = frame.loc[frame["label"] == "real", "score"].to_numpy()
    console.print("\n[bold]How well did it do?[/] Labels stand in samples/labels.csv, which the pipeline never reads.")
    generated = frame[frame["label"] == "generated"]
    for name, group in [*generated.groupby("origin"), ("all generated", generated)]:
        scores = group["score"].to_numpy()
        low, high = auroc_interval(scores, real)
        console.print(
            f"  AUROC {auroc(scores, real):.3f} [{low:.3f}, {high:.3f}]  {name}: {len(scores)} images against {len(real)} real",
            highlight=False,
        )
    flagged = set(query(warehouse, _FLAGGED)["key"])
    wrongly = int((frame["key"].isin(flagged) & (frame["label"] == "real")).sum())
    console.print(
        f"  flagged at 5 %: {int((frame['key'].isin(flagged) & (frame['label'] == 'generated')).sum())} of {len(generated)} "
        f"generated, and {wrongly} of {len(real)} real (the budget would be {0.05 * len(real):.0f})",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    console.print(
        "  1 = perfect, 0.5 = no better than chance; the interval is a 95 % bootstrap. This is a sample of a few dozen "
        "images, not an evaluation: README, Limits.", highlight=False, soft_wrap=True,
    )  # fmt: skip
