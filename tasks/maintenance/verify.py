"""A warehouse held against itself and its parts: what is wrong, and the repair of what can be repaired."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import duckdb

from mdmf_core.errors import PartDamaged
from tasks.maintenance import repairs
from tasks.maintenance.content_digest import RowsDigest
from tasks.maintenance.findings import Finding, Problem
from tasks.maintenance.leftovers import _leftovers
from tasks.maintenance.recount import TABLES, LandedShard, Recount, holdings, row_hash
from tasks.maintenance.stray_parts import stray_parts
from tasks.parts.outcome import ShardOutcome
from tasks.parts.part_files import list_parts, part_at_hand, part_path
from tasks.parts.store import exists
from tasks.warehouse.migrations import migrate, pending
from tasks.warehouse.part_rows import from_part, shard_id
from tasks.warehouse.warehouse import Warehouse


def verify(
    warehouse: Warehouse, repair: bool = False, progress: Callable[[int, int], None] = lambda done, shards: None
) -> list[Finding]:
    """Recounts every row, hashes every part and compares the two, shard by shard.

    The warehouse is held open while its rows are counted, not while parts are read. Memory grows with the shards, not the rows.

    Args:
        repair: mend what can be mended; only while no run is writing.
        progress: is told how many shards of how many are done.

    Raises:
        WarehouseError: not there, not a warehouse, written by a newer version, or held by others for too long.
    """
    behind = _schema(warehouse, repair)
    if any(not finding.repaired for finding in behind):
        return behind
    folder = warehouse.parts
    # Parts are listed before rows are counted, so that a part which lands meanwhile counts as landed.
    listed = list_parts(folder)
    with warehouse.connect(read_only=True) as connection:
        state = holdings(connection)
    problems = [*_shards(warehouse, folder, state, progress), *_two_contents(warehouse, state)]
    stray, covered = stray_parts(warehouse, folder, listed, state)
    problems += stray
    problems += _orphan_rows(state, covered)
    problems += _leftovers(warehouse, folder, state)
    return behind + [problem.settle(repair) for problem in problems]


def _schema(warehouse: Warehouse, repair: bool) -> list[Finding]:
    with warehouse.connect(read_only=True, any_version=True) as connection:
        missing = pending(connection)
    if not missing:
        return []

    def mend() -> None:
        with warehouse.connect() as connection:
            migrate(connection)

    return [Problem("schema", warehouse.spelled, f"of an earlier version: it lacks {', '.join(missing)}", mend).settle(repair)]


def _shards(warehouse: Warehouse, folder: str, state: Recount, progress: Callable[[int, int], None]) -> Iterator[Problem]:
    """Compares each complete shard with its rows and its part, and yields what is wrong."""
    bare = []
    with duckdb.connect() as reader:
        unique = list({(holding.shard_id, holding.ids): holding for holding in state.complete}.values())
        keys = Counter(holding.shard_id for holding in unique)
        for number, holding in enumerate(unique, start=1):
            if holding.key is None:
                ids = ", ".join(holding.ids)
                yield Problem("registry", holding.shard.url, f"the registry does not know its scorer, bank, calibration: {ids}")
            path = part_path(folder, holding.shard, holding.key) if holding.key else ""
            if not (path and exists(path)):
                bare.append(holding.shard.url)
            yield from _shard(warehouse, holding, path, reader, shared=keys[holding.shard_id] > 1)
            progress(number, len(unique))
    if bare:
        yield Problem(
            "missing parts", folder, f"{len(bare)} of {len(unique)} complete shards have no part, first {bare[0]}: their rows "
            "are landed, but only a part lets verify compare and restore them", note=True,
        )  # fmt: skip


def _shard(
    warehouse: Warehouse, holding: LandedShard, path: str, reader: duckdb.DuckDBPyConnection, shared: bool
) -> Iterator[Problem]:
    url = holding.shard.url
    outcome, damage, difference = _compared(holding, path, reader, shared)
    if damage is not None:
        yield Problem("damaged part", path, f"{damage}; the repair renames it", partial(repairs.set_aside, path))
    wrong = _wrong_rows(holding)
    if wrong is None and difference is not None:
        if holding.part_sha256 is None:
            yield Problem(
                "content",
                url,
                f"{difference}; its digest was not recorded, so either may be wrong. Remove {path} if the rows are right",
            )
            return
        wrong = "content", difference
    if wrong is not None:
        check, detail = wrong
        if outcome is not None:
            yield Problem(
                check,
                url,
                f"{detail}; the repair lands its part again",
                partial(repairs.land_again, warehouse, holding, outcome),
            )
        elif holding.superseded:
            yield Problem(check, url, f"{detail}; of earlier content, which no view shows and no part can restore", note=True)
        else:
            detail += "; no part can restore it: the repair marks it deferred, then `mdmf curate` of its source scores it again"
            yield Problem(check, url, detail, partial(repairs.defer, warehouse, holding))


def _compared(
    holding: LandedShard, path: str, reader: duckdb.DuckDBPyConnection, shared: bool
) -> tuple[ShardOutcome | None, str | None, str | None]:
    """Returns the outcome of an intact part, or its damage (neither where there is no part), and how the rows differ."""
    if not (path and exists(path)):
        return None, None, None
    try:
        with part_at_hand(path) as near:
            damage = _foreign(holding, near)
            if damage is not None:
                return None, damage, None
            return replace(near, part=path), None, _difference(holding, near, reader, shared)
    except PartDamaged as error:
        return None, str(error), None
    except duckdb.Error as error:
        return None, str(error).splitlines()[0], None


def _foreign(holding: LandedShard, outcome: ShardOutcome) -> str | None:
    """Says why the part is not the one that was landed; None if it is."""
    if holding.part_sha256 not in (None, outcome.part_sha256):
        return f"its sha256 is {outcome.part_sha256}, as landed it was {holding.part_sha256}"
    if shard_id(outcome) != holding.shard_id:
        return f"it is of other content: digest {outcome.digest}"
    return None


def _wrong_rows(holding: LandedShard) -> tuple[str, str] | None:
    """Returns the first check that the rows fail without looking at the part, and how; None if they pass."""
    scored, excluded = holding.held["scores"].rows, holding.held["exclusions"].rows
    if holding.rows > 1:
        return "doubled shard", f"{holding.rows} rows in shards"
    if (holding.members, holding.scored, holding.excluded) != (scored + excluded, scored, excluded):
        return "accounting", (
            f"its row says {holding.members} members = {holding.scored} scored + {holding.excluded} excluded, the tables hold "
            f"{scored} + {excluded}"
        )
    if holding.repeated:
        return "doubled rows", f"{holding.repeated} rows too many for the same image"
    if holding.without_image:
        return "missing images", f"{holding.without_image} scores have no row in images"
    return None


def _difference(holding: LandedShard, outcome: ShardOutcome, reader: duckdb.DuckDBPyConnection, shared: bool) -> str | None:
    """Says how rows and part differ; None if they do not.

    A shard ``shared`` with other keys may hold more images: those that only a run under another key could decode.
    """
    for table in TABLES:
        sums = reader.execute(
            f"SELECT count(*), coalesce(sum({row_hash(table)}), 0) FROM ({from_part(table, outcome)})"
        ).fetchall()[0]
        more = table == "images" and shared and holding.held[table].rows > sums[0]
        if RowsDigest(*sums) != holding.held[table] and not more:
            return f"the {holding.held[table].rows} rows in {table} are not the {sums[0]} of its part"
    return None


def _two_contents(warehouse: Warehouse, state: Recount) -> Iterator[Problem]:
    current: dict[tuple[str, tuple[str, str, str]], dict[str, LandedShard]] = {}
    for holding in state.complete:  # oldest first
        if not holding.superseded:
            current.setdefault((holding.shard.url, holding.ids), {})[holding.shard_id] = holding
    for (url, _), found in current.items():
        *older, _ = found.values()
        if older:
            detail = f"{len(found)} contents of it count at once; the repair keeps the newest and marks the others superseded"
            yield Problem("doubled shard", url, detail, partial(repairs.supersede, warehouse, older))


def _orphan_rows(state: Recount, covered: set[tuple[str, tuple[str, str, str] | None]]) -> Iterator[Problem]:
    for orphan in state.orphans:
        if (orphan.shard_id, orphan.ids) not in covered:
            yield Problem(
                "orphan rows", f"shard {orphan.shard_id}", f"{orphan.rows} rows in {orphan.table} belong to no shard and no "
                "part of theirs is left; no view shows them. `mdmf curate` of their source lands them anew",
            )  # fmt: skip
