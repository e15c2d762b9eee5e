"""Members and shards that got no score are chosen here for another try, by their reason."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

import duckdb

from mdmf_core.collections.folder import slice_of
from mdmf_core.errors import MdmfError, SourceError
from mdmf_core.records import ExclusionReason, Shard
from tasks.collections.listing import listed
from tasks.parts.outcome import Work, WorkKey
from tasks.warehouse.landing import generations

# Of whole shards; `storage` is also one of members.
SHARD_REASONS = ("storage", "unfinished", "killed", "error", "corrupt")
# Those that another try of the member may change.
PASSING = tuple(str(reason) for reason in ExclusionReason if reason.passes)


@dataclass(frozen=True)
class Waiting:
    """A shard that has members to try again, or is to be tried again as a whole."""

    url: str
    fingerprint: str
    whole: bool  # it has no rows: deferred or failed
    generation: int


def require_retryable(reasons: tuple[str, ...], force: bool) -> None:
    """Refuses reasons that another try cannot change.

    Raises:
        MdmfError: an unknown reason; one that is permanent without ``force``; one that is never retried.
    """
    of_members = {str(reason): reason for reason in ExclusionReason}
    known = sorted({*SHARD_REASONS, *(name for name, reason in of_members.items() if not reason.by_reader)})
    for reason in reasons:
        if reason in of_members and of_members[reason].by_reader:
            raise MdmfError(
                f"{reason} follows from the other members of a shard; a changed shard is read again by `mdmf curate`"
            )
        if reason not in known:
            raise MdmfError(f"unknown reason {reason!r}; there are {', '.join(known)}")
        passing = of_members[reason].passes if reason in of_members else reason != "corrupt"
        if not passing and not force:
            raise MdmfError(f"{reason} is permanent: the same bytes give the same verdict; with --force they are read again")


def waiting_for_retry(connection: duckdb.DuckDBPyConnection, key: WorkKey, reasons: tuple[str, ...]) -> list[Waiting]:
    """Returns the shards under this key that have members excluded, or a state, for these reasons, ordered by URL.

    Of a URL that has both, rows and a deferral of later content, the deferral.
    """
    rows = connection.execute(
        "SELECT sh.url, sh.fingerprint, sh.state <> 'complete' AS whole FROM shards sh "
        "WHERE sh.scorer_id = ? AND sh.bank_id = ? AND sh.calibration_id = ? AND NOT sh.superseded AND CASE sh.state "
        "WHEN 'complete' THEN EXISTS (FROM exclusions e WHERE e.shard_id = sh.shard_id AND e.scorer_id = sh.scorer_id "
        "  AND e.bank_id = sh.bank_id AND e.calibration_id = sh.calibration_id AND e.reason IN (SELECT unnest(?::VARCHAR[]))) "
        "ELSE split_part(sh.reason, ':', 1) IN (SELECT unnest(?::VARCHAR[])) END "
        "QUALIFY row_number() OVER (PARTITION BY sh.url ORDER BY whole DESC) = 1 ORDER BY sh.url",
        [*key.ids, list(reasons), list(reasons)],
    ).fetchall()
    newest = generations(connection, key)
    return [Waiting(url, fingerprint, whole, newest[url]) for url, fingerprint, whole in rows]


def cuts(connection: duckdb.DuckDBPyConnection) -> list[int]:
    """Returns the images per slice that earlier runs cut folders into, the newest run's first."""
    rows = connection.execute(
        "SELECT (parameters->>'images_per_slice')::INT AS cut FROM runs WHERE flow = 'curate' GROUP BY cut "
        "HAVING cut IS NOT NULL ORDER BY max(started_at) DESC"
    ).fetchall()
    return [cut for (cut,) in rows] or [1000]


def work_again(
    waiting: list[Waiting], reasons: tuple[str, ...], cut_sizes: list[int], storage_block: str | None
) -> tuple[list[Work], list[str]]:
    """Returns the work that the shards need now, and a line for each shard that the store does not list any more.

    A shard whose content changed meanwhile is scored whole.
    """
    work, missing = [], []
    for folder, entries in groupby(sorted(waiting, key=_place), key=_place):
        group = list(entries)
        try:
            found = _found(*folder, (entry.url for entry in group), cut_sizes, storage_block)
        except SourceError as error:
            missing += [f"{entry.url}: {error}" for entry in group]
            continue
        for entry in group:
            candidates = found.get(entry.url, [])
            if not candidates:
                missing.append(f"{entry.url}: not there")
                continue
            shard = next((shard for shard in candidates if shard.fingerprint == entry.fingerprint), candidates[0])
            whole = entry.whole or shard.fingerprint != entry.fingerprint
            work.append(Work(shard, entry.generation, () if whole else reasons))
    return work, missing


def _place(waiting: Waiting) -> tuple[str, bool]:
    """Returns the folder in which the shard is listed, and whether the shard is a slice of that folder."""
    folder, number = slice_of(waiting.url)
    return (folder, True) if number else (os.path.dirname(waiting.url), False)


def _found(
    folder: str, sliced: bool, urls: Iterable[str], cut_sizes: list[int], storage_block: str | None
) -> dict[str, list[Shard]]:
    """Lists what is there now, by URL; a folder is listed in every cut, since its URL does not say how it was cut."""
    if sliced:
        shards = [shard for cut in cut_sizes for shard in listed([folder], cut, storage_block)]
    else:
        shards = listed(urls, 1, storage_block)
    found: dict[str, list[Shard]] = {}
    for shard in shards:
        if shard.size_bytes >= 0:
            found.setdefault(shard.url, []).append(shard)
    return found
