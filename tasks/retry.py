"""What is tried again, by the class of the reason for which it got no score."""

from dataclasses import dataclass
from functools import lru_cache

import duckdb

from mdmf_core.digests import short_id
from mdmf_core.errors import MdmfError, SourceError
from mdmf_core.records import ExclusionReason, Shard
from tasks.parts import Work, WorkKey
from tasks.shards import list_shards

# Of whole shards; `storage` is also one of members.
SHARD_REASONS = ("storage", "unfinished", "killed", "error", "corrupt")
# What the reader of a shard decided by its other members; another look at the member alone cannot decide otherwise.
_BY_READER = (ExclusionReason.DUPLICATE_KEY, ExclusionReason.NO_IMAGE, ExclusionReason.NOT_A_FILE)


@dataclass(frozen=True)
class Waiting:
    """A shard with something to try again."""

    url: str
    fingerprint: str
    generation: int
    whole: bool  # it has no rows: deferred or failed
    images_per_slice: int  # as its run cut the folder


def require_retryable(reasons: tuple[str, ...], force: bool) -> None:
    """Refuses what another try cannot change.

    Raises:
        MdmfError: an unknown reason; one that is permanent without ``force``; one that is never retried.
    """
    members = [reason for reason in ExclusionReason if reason not in _BY_READER]
    known = sorted({*SHARD_REASONS, *members})
    for reason in reasons:
        if reason in tuple(_BY_READER):
            raise MdmfError(
                f"{reason} follows from the other members of a shard; a changed shard is read again by `mdmf curate`"
            )
        if reason not in known:
            raise MdmfError(f"unknown reason {reason!r}; there are {', '.join(known)}")
        passing = (ExclusionReason(reason).passing if reason in tuple(ExclusionReason) else reason != "corrupt") or force
        if not passing:
            raise MdmfError(f"{reason} is permanent: the same bytes give the same verdict; with --force they are read again")


def waiting_for_retry(connection: duckdb.DuckDBPyConnection, key: WorkKey, reasons: tuple[str, ...]) -> list[Waiting]:
    """The shards under this key that have members or a state of these reasons, in the order of their URLs."""
    ids = [str(short_id(digest)) for digest in (key.scorer_id, key.bank_id, key.calibration_id)]
    rows = connection.execute(
        "SELECT sh.url, sh.fingerprint, coalesce(sh.generation, 0), sh.state <> 'complete', "
        "coalesce((r.parameters->>'images_per_slice')::INT, 1000) FROM shards sh LEFT JOIN runs r USING (run_id) "
        "WHERE sh.scorer_id = ? AND sh.bank_id = ? AND sh.calibration_id = ? AND NOT sh.superseded AND CASE sh.state "
        "WHEN 'complete' THEN EXISTS (FROM exclusions e WHERE e.shard_id = sh.shard_id AND e.scorer_id = sh.scorer_id "
        "  AND e.bank_id = sh.bank_id AND e.calibration_id = sh.calibration_id AND e.reason IN (SELECT unnest(?::VARCHAR[]))) "
        "ELSE split_part(sh.reason, ':', 1) IN (SELECT unnest(?::VARCHAR[])) END ORDER BY sh.url",
        [*ids, list(reasons), list(reasons)],
    ).fetchall()
    return [Waiting(*row) for row in rows]


def again(waiting: Waiting, reasons: tuple[str, ...], storage_block: str | None) -> Work | None:
    """The work that a shard needs now; None when the store does not list it any more.

    A shard whose content changed meanwhile is scored whole.
    """
    shard = _listed(waiting, storage_block)
    if shard is None:
        return None
    whole = waiting.whole or shard.fingerprint != waiting.fingerprint
    return Work(shard, waiting.generation, () if whole else reasons)


def _listed(waiting: Waiting, storage_block: str | None) -> Shard | None:
    folder, slice_mark, _ = waiting.url.rpartition("#slice=")
    try:
        if slice_mark:
            return _slices(folder, waiting.images_per_slice, storage_block).get(waiting.url)
        return list_shards(waiting.url, waiting.images_per_slice, storage_block)[0]
    except SourceError:
        return None


@lru_cache(maxsize=4)
def _slices(folder: str, images_per_slice: int, storage_block: str | None) -> dict[str, Shard]:
    return {shard.url: shard for shard in list_shards(folder, images_per_slice, storage_block)}
