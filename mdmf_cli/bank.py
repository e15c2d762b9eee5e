"""`mdmf bank ...`: the life of reference banks."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any

import typer

from mdmf_cli.console import Block, Device, ScorerOption, Warehouse, plain_errors, print_rows, say

bank_app = typer.Typer(help="Reference banks: sets of real images that others are compared with.", no_args_is_help=True)
Bank = Annotated[str, typer.Argument(help="name@3, name (its newest version) or @alias in the registry, or a directory.")]
Alias = Annotated[str, typer.Option(help="production is what the views show and curate's @production means.")]
Domains = Annotated[
    str, typer.Option(help="One name for all, folder, column:NAME (of the json beside an image), or cluster:N.")
]


class Compression(StrEnum):
    herding = "herding"
    nystrom = "nystrom"
    thinning = "thinning"


class Match(StrEnum):
    quality = "quality"
    size = "size"
    resized = "resized"


@bank_app.command("build")
def build(
    source: Annotated[str, typer.Argument(help="Images that are known to be real, of the kind that will be scored.")],
    name: Annotated[str, typer.Option(help="Of the bank; other content under the same name is its next version.")],
    store: Annotated[str, typer.Option(help="Folder or s3:// prefix that banks lie in.")] = "banks",
    warehouse: Warehouse = "warehouse.duckdb",
    scorer: ScorerOption = "default",
    points: Annotated[int, typer.Option(min=2, help="Patches that every slice is compressed to at most.")] = 1000,
    max_error: Annotated[
        float, typer.Option(min=0, help="Stop at fewer points once MMD(patches, points) is this small.")
    ] = 0.0,
    compression: Annotated[
        Compression, typer.Option(help="nystrom weights the points; thinning needs mdmf[thinning].")
    ] = Compression.herding,
    max_images: Annotated[int, typer.Option(min=4, help="Images read at most.")] = 2000,
    domains: Domains = "photo",
    match: Annotated[list[Match] | None, typer.Option(help="May be given again: compare like with like.")] = None,
    expel: Annotated[str | None, typer.Option(help="File; images whose sha256 starts one of its lines are left out.")] = None,
    device: Device = "auto",
    storage_block: Block = None,
) -> None:
    """Build a bank on half of the images, calibrate it on the other half, and register it."""
    from flows.bank import build_bank

    chosen: dict[str, Any] = {"compression": compression.value, "match": tuple(kind.value for kind in match or ())}
    with plain_errors():
        named = build_bank(
            source=source, name=name, store=store, warehouse=warehouse, scorer=scorer, points=points, max_error=max_error,
            max_images=max_images, domains=domains, expel=expel, device=device, storage_block=storage_block, **chosen,
        )  # fmt: skip
    built = named.built
    expelled = f", {built.expelled} expelled" if built.expelled else ""
    say(
        f"{named.title} at {built.directory}: {built.bank_images} images in {len(built.slices)} slices "
        f"({'; '.join(built.slices)}), {built.points} points, coreset error {built.coreset_error:.4f}; calibrated on "
        f"{built.calibration_images}, so budgets down to {built.smallest_budget:.4f} can be kept; "
        f"{built.excluded} unusable{expelled}"
    )
    say(f"next:   mdmf bank promote {named.title} --warehouse {warehouse}")


@bank_app.command("calibrate")
def calibrate(
    bank: Bank,
    source: Annotated[str, typer.Argument(help="Images that are known to be real; those that the bank holds are skipped.")],
    warehouse: Warehouse = "warehouse.duckdb",
    scorer: ScorerOption = "default",
    max_images: Annotated[int, typer.Option(min=2, help="Images read at most.")] = 2000,
    domains: Domains = "photo",
    device: Device = "auto",
    storage_block: Block = None,
) -> None:
    """Calibrate a bank on other real images: a further, numbered calibration of it."""
    from flows.bank import calibrate_bank

    with plain_errors():
        found = calibrate_bank(
            source=source, bank=bank, warehouse=warehouse, scorer=scorer, max_images=max_images, domains=domains, device=device,
            storage_block=storage_block,
        )  # fmt: skip
    done = found.calibrated
    say(
        f"{found.title}, calibration {found.version}: {done.images} images "
        f"({', '.join(f'{n} {d}' for d, n in done.by_slice.items())}), {done.skipped} skipped because the bank holds "
        f"them; budgets from {done.smallest_budget:.4f}"
    )
    say(f"next:   mdmf bank promote {found.title} --calibration {found.version} --warehouse {warehouse}")


@bank_app.command("verify")
def verify(
    bank: Bank = "@production",
    warehouse: Warehouse = "warehouse.duckdb",
    calibration: Annotated[str | None, typer.Option(help="Number in the registry, or a file.")] = None,
    scorer: ScorerOption = "default",
    storage_block: Block = None,
) -> None:
    """Check every digest of a bank, its calibration, its members and how it fits the corpus. Status 1 on an alarm."""
    from flows.bank import bank_health

    with plain_errors():
        found = bank_health(bank=bank, warehouse=warehouse, calibration=calibration, scorer=scorer, storage_block=storage_block)
    typer.echo(found.markdown())
    if found.alarms:
        raise typer.Exit(1)


@bank_app.command("list")
def list_banks(warehouse: Warehouse = "warehouse.duckdb") -> None:
    """Every bank and calibration that the registry knows."""
    from tasks.registry import listing
    from tasks.warehouse import connect

    with plain_errors(), connect(warehouse, read_only=True) as connection:
        rows = listing(connection)
    print_rows(rows, list(rows[0]) if rows else ["bank"])


@bank_app.command("show")
def show(
    bank: Bank = "@production",
    warehouse: Warehouse = "warehouse.duckdb",
    calibration: Annotated[int | None, typer.Option(help="Number in the registry.")] = None,
) -> None:
    """One bank: digests, slices, and what every budget really gives."""
    from tasks.registry import describe
    from tasks.warehouse import connect

    with plain_errors(), connect(warehouse, read_only=True) as connection:
        facts, budgets, history = describe(connection, bank, calibration)
    for name, value in facts.items():
        say(f"{name:12} {value}")
    say("\nBudgets: the share of real images that p_value <= budget flags lies in low..high (90 %)")
    print_rows(budgets, ["domain", "images", "budget", "low", "high", "sure_line"])
    if history:
        say("\nPromotions")
        print_rows(history, ["alias", "promoted_at", "calibration"])


@bank_app.command("diff")
def diff(
    bank_a: Annotated[str, typer.Argument(help="As for show.")],
    bank_b: Annotated[str, typer.Argument(help="As for show.")],
    fpr: Annotated[float, typer.Option(min=0, max=1, help="The line that images cross.")] = 0.05,
    warehouse: Warehouse = "warehouse.duckdb",
) -> None:
    """What changed between two banks, and which images crossed the line, by domain and host."""
    from tasks.registry import difference
    from tasks.warehouse import connect

    with plain_errors(), connect(warehouse, read_only=True) as connection:
        facts, crossed = difference(connection, bank_a, bank_b, fpr)
    print_rows(facts, ["", bank_a, bank_b])
    if crossed:
        say(f"\nImages scored with both, at a budget of {fpr}")
        print_rows(crossed, ["domain", "host", "images", "newly_flagged", "no_longer_flagged"])
    else:
        say(f"\nNo image is scored with both; mdmf rescore --bank {bank_b} --warehouse {warehouse}")


@bank_app.command("promote")
def promote(
    bank: Bank,
    warehouse: Warehouse = "warehouse.duckdb",
    calibration: Annotated[int | None, typer.Option(help="Number in the registry; the newest by default.")] = None,
    alias: Alias = "production",
    rescore: Annotated[bool, typer.Option(help="Then score all shards with kept signatures with it.")] = False,
    scorer: ScorerOption = "default",
) -> None:
    """Point an alias at a bank. The views show the bank that is @production."""
    from tasks.registry import find
    from tasks.registry import promote as point

    with plain_errors():
        with _change(warehouse) as connection:
            entry = find(connection, bank, calibration)
            point(connection, entry, alias)
        say(f"@{alias} is {entry.title}, calibration {entry.calibration_version}")
        if rescore:
            from flows.rescore import rescore as flow

            found = flow(bank=f"@{alias}", warehouse=warehouse, scorer=scorer)
            say(
                f"{found.images} images of {found.shards} shards scored again, "
                f"{found.without_signatures} shards without signatures"
            )


@bank_app.command("rollback")
def rollback(warehouse: Warehouse = "warehouse.duckdb", alias: Alias = "production") -> None:
    """Point an alias at what it pointed at before. Rows are kept, so the views show the earlier scores at once."""
    from tasks.registry import rollback as back

    with plain_errors(), _change(warehouse) as connection:
        entry = back(connection, alias)
    say(f"@{alias} is {entry.title} again, calibration {entry.calibration_version}")


@bank_app.command("retire")
def retire(bank: Bank, warehouse: Warehouse = "warehouse.duckdb") -> None:
    """Take a bank out of use under its name. Its rows and its directory stay."""
    from tasks.registry import find
    from tasks.registry import retire as end

    with plain_errors(), _change(warehouse) as connection:
        entry = find(connection, bank)
        end(connection, entry)
    say(f"{entry.title} is retired")


@contextmanager
def _change(warehouse: str) -> Iterator[Any]:
    """A transaction on the registry of a warehouse that is there, of this version's schema."""
    from tasks.warehouse import connect, migrate, opened, transaction

    with opened(warehouse, read_only=True):  # an error, not a new file, where there is none
        pass
    with connect(warehouse) as connection:
        migrate(connection)
        with transaction(connection):
            yield connection
