"""`mdmf review ...`: verdicts of people, which count before the score."""

from typing import Annotated

import typer

from mdmf_cli.console import WarehouseOption, plain_errors, print_rows, say

review_app = typer.Typer(help="Verdicts of people: they count before the score.", no_args_is_help=True)
Budget = Annotated[float, typer.Option(min=0, max=1, help="False-positive budget of the flags.")]


@review_app.command("import")
def import_(
    verdicts: Annotated[str, typer.Argument(help="CSV with image_id and verdict: generated, real or unsure.")],
    warehouse: WarehouseOption = "warehouse.duckdb",
    reviewer: Annotated[str | None, typer.Option(help="Who it was, where the file does not say.")] = None,
) -> None:
    """Enter the verdicts of a file, all or none. The same file again changes nothing."""
    from tasks.reviews.verdicts import import_reviews
    from tasks.warehouse.warehouse import Warehouse

    with plain_errors():
        done = import_reviews(Warehouse.at(warehouse), verdicts, reviewer)
    say(f"{done.new} verdicts entered, {done.known} known before, {done.blank} lines without one")


@review_app.command("sample")
def sample(
    out: Annotated[str, typer.Argument(help="CSV to write, with empty columns for the verdicts.")],
    budget: Budget = 0.05,
    n: Annotated[int, typer.Option("--n", min=1, help="Images at most.")] = 100,
    warehouse: WarehouseOption = "warehouse.duckdb",
) -> None:
    """Write the next flagged images to look at, in random order: the first ones measure the precision of all flags."""
    from tasks.reviews.csv_files import write_sample
    from tasks.reviews.verdicts import next_to_review
    from tasks.warehouse.warehouse import Warehouse

    with plain_errors():
        rows = next_to_review(Warehouse.at(warehouse), budget, n)
        write_sample(out, rows)
    say(f"{len(rows)} images in {out}; fill in verdict, then: mdmf review import {out} --reviewer YOU --warehouse {warehouse}")


@review_app.command("list")
def list_reviews(
    warehouse: WarehouseOption = "warehouse.duckdb",
    n: Annotated[int, typer.Option("--n", min=1, help="Newest ones, at most.")] = 50,
) -> None:
    """List the verdicts that count, newest first."""
    from tasks.warehouse.questions import query
    from tasks.warehouse.warehouse import Warehouse

    with plain_errors():
        rows = query(
            Warehouse.at(warehouse),
            "SELECT key, verdict, reviewer, strftime(reviewed_at, '%Y-%m-%d %H:%M') AS reviewed_at, reason "
            "FROM reviewed ORDER BY reviewed.reviewed_at DESC, key LIMIT ?",
            [n],
        ).to_dict("records")
    print_rows(rows, ["key", "verdict", "reviewer", "reviewed_at", "reason"])


@review_app.command("precision")
def precision(budget: Budget = 0.05, warehouse: WarehouseOption = "warehouse.duckdb") -> None:
    """Show which share of the flagged images reviewers call generated, with its 95 % interval."""
    from tasks.warehouse.questions import query
    from tasks.warehouse.warehouse import Warehouse

    with plain_errors():
        rows = query(Warehouse.at(warehouse), "SELECT * FROM precision_estimate(?)", [budget]).to_dict("records")
    for row in rows:
        share = (
            f": precision {row['precision']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
            if row["generated"] + row["real"]
            else ""
        )
        say(
            f"{row['basis']}: {row['looked_at']} of {row['flagged']} flagged images, "
            f"{row['generated']} generated, {row['real']} real, {row['undecided']} undecided{share}"
        )
    say(
        "The random sample speaks of all flags; it is the review order (mdmf review sample) up to the first image that nobody "
        "has looked at. All reviewed speaks of those that somebody chose to look at."
    )
