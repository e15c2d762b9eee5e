"""Parts that no complete shard of the warehouse knows: finished and never landed, outdated, or damaged."""

from dataclasses import replace
from functools import partial

import duckdb
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mdmf_core.collections.folder import slice_of
from mdmf_core.errors import PartDamaged
from mdmf_core.records import Shard
from tasks.maintenance import repairs
from tasks.maintenance.findings import Problem
from tasks.maintenance.recount import LandedShard, Recount
from tasks.parts.outcome import ShardOutcome, WorkKey
from tasks.parts.part_files import list_parts, part_at_hand, part_path
from tasks.warehouse.part_rows import shard_id
from tasks.warehouse.warehouse import Warehouse

Ids = tuple[str, str, str]


def unknown_parts(folder: str, listed: list[str], state: Recount) -> list[str]:
    """Returns those of the listed parts that belong to no complete shard."""
    known = {part_path(folder, holding.shard, holding.key) for holding in state.complete if holding.key}
    return [path for path in listed if path not in known]


def not_landed(connection: duckdb.DuckDBPyConnection, folder: str) -> list[str]:
    """Parts that belong to no complete shard, by their names alone: no row is counted and no part read."""
    rows = connection.execute(
        "SELECT sh.url, kind, size_bytes, fingerprint, s.digest, b.digest, c.digest FROM shards sh "
        "JOIN scorers s USING (scorer_id) JOIN banks b USING (bank_id) JOIN calibrations c USING (calibration_id) "
        "WHERE state = 'complete'"
    ).fetchall()
    known = {part_path(folder, Shard(*row[:4]), WorkKey(*row[4:])) for row in rows}
    return [path for path in list_parts(folder) if path not in known]


def stray_parts(
    warehouse: Warehouse, folder: str, listed: list[str], state: Recount
) -> tuple[list[Problem], set[tuple[str, Ids | None]]]:
    """Returns every unknown part, those to land oldest first, and the shards, with and without ids, that these complete."""
    found, to_land, covered = [], [], set()
    current: dict[tuple[str, Ids], list[LandedShard]] = {}
    for holding in state.complete:
        if not holding.superseded:
            current.setdefault((slice_of(holding.shard.url)[0], holding.ids), []).append(holding)
    for path in unknown_parts(folder, listed, state):
        try:
            with part_at_hand(path) as near:
                outcome, scored_at = replace(near, part=path), _newest(near.part or path)
        except (PartDamaged, OSError) as error:
            found.append(Problem("damaged part", path, f"{error}; the repair renames it", partial(repairs.set_aside, path)))
            continue
        key = _key(folder, path, outcome, state.keys)
        if key is None:
            detail = (
                f"of {outcome.url}, by a scorer, bank or calibration that the registry does not know; curate with it to land it"
            )
            found.append(Problem("unknown part", path, detail))
            continue
        scorer, bank, calibration = key.ids
        ids = scorer, bank, calibration
        if _outdated(outcome, scored_at, current.get((slice_of(outcome.url)[0], ids), [])):
            detail = f"of {outcome.url}, whose content was landed from a later part; it may be removed"
            found.append(Problem("outdated part", path, detail, note=True))
            continue
        detail = f"{outcome.members} members of {outcome.url} were never landed; the repair lands it, or the next run does"
        mend = partial(repairs.land_stray, warehouse, outcome, key)
        to_land.append((scored_at or 0, Problem("orphan part", path, detail, mend)))
        covered |= {(shard_id(outcome), ids), (shard_id(outcome), None)}
    return found + [problem for _, problem in sorted(to_land, key=lambda pair: pair[0])], covered


def _key(folder: str, path: str, outcome: ShardOutcome, keys: list[WorkKey]) -> WorkKey | None:
    """Returns the registered key under which the part got its name."""
    shard = Shard(outcome.url, outcome.kind, outcome.size_bytes, outcome.fingerprint)
    return next((key for key in keys if part_path(folder, shard, key) == path), None)


def _newest(path: str) -> float | None:
    """Returns when the part's last image was scored, in seconds since 1970; None if all its members are excluded."""
    newest = pc.max(pq.read_table(path, columns=["scored_at"])["scored_at"]).as_py()
    return newest.timestamp() if newest else None


def _outdated(outcome: ShardOutcome, scored_at: float | None, current: list[LandedShard]) -> bool:
    """Tells whether landing the part would replace newer content of its shard, its URL, or another cut of its folder."""
    cut = slice_of(outcome.url)[1].partition("of")[2]
    for holding in current:
        other_cut = slice_of(holding.shard.url)[1].partition("of")[2]
        rival = holding.shard.url == outcome.url or cut != other_cut
        if holding.shard_id == shard_id(outcome) or (rival and (scored_at or 0) < holding.committed_at.timestamp()):
            return True
    return False
