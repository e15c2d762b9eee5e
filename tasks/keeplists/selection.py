"""Which images a keep-list holds: a selection, as a query through the warehouse's own macros."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import duckdb
from pydantic import BaseModel, Field

from mdmf_core.choices import Uid, Unsure, Which
from mdmf_core.errors import MdmfError, WarehouseError
from tasks.warehouse.attach import quoted
from tasks.warehouse.query_rows import column_names

_MACROS = {
    "kept": "SELECT *, 'kept' AS decision FROM kept({budget})",
    "flagged": "SELECT *, 'flagged' AS decision FROM flagged({budget})",
    "unsure": "SELECT *, 'unsure' AS decision FROM unsure(fpr := {budget})",
    "surely": "SELECT *, 'flagged' AS decision, 'score' AS decided_by FROM flagged_surely({budget})",
    "discoveries": "SELECT *, 'flagged' AS decision, 'score' AS decided_by FROM discoveries({budget})",
}
_ROWS = """
SELECT shard_url, key, image_id::VARCHAR AS image_id, sha256, {uid}::VARCHAR AS uid, locator, bytes, format, width, height, url,
       score, p_value, domain, in_support, decision, decided_by
FROM ({chosen}) ORDER BY shard_url, key
"""
# Too small or otherwise without a score, but decoded: their bytes are known and can be checked.
_EXCLUDED = """
SELECT e.shard_url, e.key, e.image_id, i.sha256, i.sidecar, i.locator, i.bytes, i.format, i.width, i.height, i.url,
       'excluded' AS decision
FROM excluded e JOIN images i USING (shard_id, image_id) WHERE e.reason IN ({reasons})
"""
# DataComp's uid: 32 hexadecimal digits in the json beside the image, or as its key.
_UIDS: dict[Uid | Literal["none"], str] = {
    "none": "NULL",
    "sidecar": "list_filter([lower(sidecar->>'$.uid'), lower(regexp_extract(key, '[^/]*$'))], "
    "lambda text: regexp_full_match(text, '[0-9a-f]{32}'))[1]",
    "image_id": "replace(image_id::VARCHAR, '-', '')",
}


class Selection(BaseModel):
    """What is chosen. Unsure images count as kept unless dropped: nothing speaks against them."""

    which: Which = "kept"
    budget: Annotated[float, Field(gt=0, lt=1)] = 0.05
    unsure: Unsure = "keep"
    keep_excluded: tuple[str, ...] = ()  # reasons
    where: str | None = None  # condition over `scored`
    sql: str | None = None  # a query for shard_url and key, or image_id, in place of `which`

    @property
    def by_macro(self) -> str:
        """The query through the macros, as one may ask it in any shell."""
        query = _MACROS[self.which].format(budget=self.budget)
        if self.which == "kept" and self.unsure == "keep":
            query += " UNION ALL BY NAME " + _MACROS["unsure"].format(budget=self.budget)
        return query


def keep_query(connection: duckdb.DuckDBPyConnection, selection: Selection) -> str:
    """The chosen images, with all columns of ``scored`` and their decision.

    Raises:
        MdmfError: a budget that cannot be kept, an unknown column, more or something else than one SELECT, an exclusion whose
            bytes are not known, or rows of ``sql`` that are no scored images.
    """
    with plain_sql():
        connection.execute(f"SELECT 1 FROM ({selection.by_macro}) LIMIT 1").fetchall()
    query = _by_sql(connection, selection) if selection.sql else selection.by_macro
    if selection.where:
        with plain_sql(f"--where {selection.where}", _columns(connection)):
            _require_one_select(connection, f"SELECT 1 FROM scored WHERE ({selection.where}\n)")
        query = f"SELECT * FROM ({query}) WHERE ({selection.where}\n)"
    if selection.keep_excluded:
        _require_known(connection, selection.keep_excluded)
        reasons = ", ".join(map(quoted, selection.keep_excluded))
        query = f"SELECT * FROM ({query}) UNION ALL BY NAME {_EXCLUDED.format(reasons=reasons)}"
    return query


def rows_query(chosen: str, uid: Uid | Literal["none"]) -> str:
    """The rows of keep.parquet."""
    return _ROWS.format(chosen=chosen, uid=_UIDS[uid])


@contextmanager
def plain_sql(subject: str = "", columns: list[str] | None = None) -> Iterator[None]:
    """Turns what DuckDB says inside the block into one sentence on ``subject``, with the columns that there are."""
    try:
        yield
    except duckdb.Error as error:
        said = str(error).splitlines()[0].partition(": ")[2].rstrip("!") or str(error)
        known = f"; the columns are {', '.join(columns)}" if columns else ""
        raise MdmfError(f"{subject}: {said}{known}" if subject else said) from error


def made_by(connection: duckdb.DuckDBPyConnection) -> dict[str, dict[str, Any]]:
    """Names and whole digests of the promoted scorer, bank and calibration.

    Raises:
        WarehouseError: nothing is promoted yet.
    """
    rows = connection.execute(
        "SELECT s.name, s.digest, b.name, b.version, b.digest, c.domain, c.version, c.digest FROM promoted "
        "JOIN scorers s USING (scorer_id) JOIN banks b USING (bank_id) JOIN calibrations c USING (calibration_id)"
    ).fetchall()
    if not rows:
        raise WarehouseError("the warehouse shows no scorer and bank yet: run `mdmf curate SOURCE` first")
    scorer, scorer_digest, bank, bank_version, bank_digest, domain, version, digest = rows[0]
    return {
        "scorer": {"name": scorer, "digest": scorer_digest},
        "bank": {"name": bank, "version": bank_version, "digest": bank_digest},
        "calibration": {"name": domain, "version": version, "digest": digest},
    }


def counts(connection: duckdb.DuckDBPyConnection, selection: Selection) -> dict[str, Any]:
    """Members of the corpus by what became of them; members = the sum of decisions + the sum of exclusions."""
    excluded = connection.execute("SELECT reason, count(*) FROM excluded GROUP BY reason ORDER BY reason").fetchall()
    if selection.which in ("kept", "flagged", "unsure") or selection.sql:
        decided = f"decided({selection.budget})"
        sql = f"SELECT decision, count(*) FROM {decided} GROUP BY decision ORDER BY decision"
        by_review = f"SELECT decision, count(*) FROM {decided} WHERE decided_by = 'review' GROUP BY decision ORDER BY decision"
    else:  # scores alone, and the line of these need not be one that decisions can take
        sql, by_review = "SELECT 'scored', count(*) FROM judged", "SELECT 'scored', 0 LIMIT 0"
    decisions, reviewed = (dict(connection.execute(each).fetchall()) for each in (sql, by_review))
    return {"decisions": decisions, "decided_by_review": reviewed, "excluded": dict(excluded)}


def _by_sql(connection: duckdb.DuckDBPyConnection, selection: Selection) -> str:
    with plain_sql(f"--sql {selection.sql}"):
        names = _require_one_select(connection, selection.sql or "")
    if {"shard_url", "key"} <= names:
        same = "d.shard_url = q.shard_url AND d.key = q.key"
    elif "image_id" in names:
        same = "d.image_id::VARCHAR = q.image_id::VARCHAR"
    else:
        raise MdmfError(f"--sql gives {', '.join(sorted(names))}; it must give shard_url and key, or image_id")
    every = f"SELECT * FROM decisions({selection.budget})"
    with plain_sql(f"--sql {selection.sql}"):
        strange = connection.execute(
            f"SELECT count(*) FROM ({selection.sql}\n) q WHERE NOT EXISTS (SELECT 1 FROM ({every}) d WHERE {same})"
        ).fetchall()[0][0]
    if strange:
        raise MdmfError(f"--sql gives {strange} rows that are no scored images; for exclusions use --keep-excluded REASON")
    return f"SELECT * FROM ({every}) d WHERE EXISTS (SELECT 1 FROM ({selection.sql}\n) q WHERE {same})"


def _require_one_select(connection: duckdb.DuckDBPyConnection, sql: str) -> set[str]:
    """Its columns; raises MdmfError for anything but one SELECT."""
    statements = connection.extract_statements(sql)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise MdmfError(f"{sql}: one SELECT is allowed, nothing else")
    connection.execute(f"SELECT * FROM ({sql}\n) LIMIT 0").fetchall()
    return set(column_names(connection))


def _require_known(connection: duckdb.DuckDBPyConnection, reasons: tuple[str, ...]) -> None:
    rows = connection.execute(
        "SELECT e.reason, count(*), count(i.image_id) FROM excluded e LEFT JOIN images i USING (shard_id, image_id) "
        "GROUP BY e.reason"
    ).fetchall()
    unknown = {reason: members for reason, members, known in rows if reason in reasons and known < members}
    for reason, members in unknown.items():
        raise MdmfError(
            f"--keep-excluded {reason}: {members} members were not decoded, so nothing could check their bytes later; members "
            "that can be kept are those too_small"
        )
    absent = set(reasons) - {reason for reason, *_ in rows}
    if absent:
        there = ", ".join(sorted(reason for reason, *_ in rows)) or "none"
        raise MdmfError(f"--keep-excluded {', '.join(sorted(absent))}: no member was excluded for it; reasons there: {there}")


def _columns(connection: duckdb.DuckDBPyConnection) -> list[str]:
    connection.execute("SELECT * FROM scored LIMIT 0").fetchall()
    return column_names(connection)
