"""What `mdmf bank list`, `show` and `diff` print of the registry."""

from typing import Any

import duckdb

from mdmf_core.errors import ArtifactError
from tasks.warehouse.query_rows import Records, records
from tasks.warehouse.registry import find


def bank_list(connection: duckdb.DuckDBPyConnection) -> Records:
    """Returns one row per bank and calibration, with the aliases that point there and the images scored."""
    aliases: dict[tuple[str, str], list[str]] = {}
    for (name,) in connection.execute("SELECT DISTINCT alias FROM bank_aliases ORDER BY alias").fetchall():
        entry = find(connection, f"@{name}")
        aliases.setdefault((entry.bank_id, entry.calibration_id), []).append(f"@{name}")
    rows = records(
        connection,
        "SELECT b.name || '@' || b.version AS bank, c.version AS cal, '' AS alias, b.images, c.images AS calibrated, "
        "c.smallest_budget AS fpr_from, coalesce(sum(s.scored), 0)::BIGINT AS scored, b.bank_id::VARCHAR AS bank_id, "
        "c.calibration_id::VARCHAR AS calibration_id, b.retired_at IS NOT NULL AS retired, b.registered_at "
        "FROM banks b JOIN calibrations c USING (bank_id) "
        "LEFT JOIN shards s ON s.bank_id = b.bank_id AND s.calibration_id = c.calibration_id AND NOT s.superseded "
        "GROUP BY ALL ORDER BY b.registered_at, c.version",
        [],
    )
    for row in rows:
        retired = ["retired"] if row.pop("retired") else []
        del row["registered_at"]
        row["alias"] = " ".join(aliases.get((row.pop("bank_id"), row.pop("calibration_id")), []) + retired)
    return rows


def describe(
    connection: duckdb.DuckDBPyConnection, reference: str, calibration: int | None
) -> tuple[dict[str, Any], Records, Records]:
    """Returns a bank's facts, what its budgets give, and the history of its promotions."""
    entry = find(connection, reference, calibration)
    digest, points, patches, images, sigma, error, registered, scorer = connection.execute(
        "SELECT b.digest, b.points, b.patches, b.images, b.sigma, b.coreset_error, b.registered_at, s.name || ' ' || s.digest "
        "FROM banks b LEFT JOIN scorers s USING (scorer_id) WHERE bank_id = ?",
        [entry.bank_id],
    ).fetchall()[0]
    facts = {
        "bank": entry.title + (" (retired)" if entry.retired else ""), "id": digest, "scorer": scorer, "lies at": entry.url,
        "registered": f"{registered:%Y-%m-%d %H:%M}", "images": images, "patches": patches, "points": points,
        "error": f"{error:.5f}", "bandwidth": f"{sigma:.4f}",
        "calibration": f"{entry.calibration_version} ({entry.calibration_url or 'in its directory'})",
    }  # fmt: skip
    budgets = records(
        connection,
        "SELECT s.domain, s.images, b.budget, b.low, b.high, b.sure_line FROM calibration_slices s "
        "LEFT JOIN calibration_budgets b USING (calibration_id, domain) WHERE s.calibration_id = ? ORDER BY ALL",
        [entry.calibration_id],
    )
    history = records(
        connection,
        "SELECT a.alias, strftime(a.promoted_at, '%Y-%m-%d %H:%M:%S') AS promoted_at, c.version AS calibration "
        "FROM bank_aliases a JOIN calibrations c USING (calibration_id) WHERE a.bank_id = ? ORDER BY a.promoted_at",
        [entry.bank_id],
    )
    return facts, budgets, history


def difference(connection: duckdb.DuckDBPyConnection, bank_a: str, bank_b: str, fpr: float) -> tuple[Records, Records]:
    """Returns the facts of two banks side by side, and the images that crossed the line."""
    a, b = find(connection, bank_a), find(connection, bank_b)
    if a.scorer_id != b.scorer_id:
        raise ArtifactError(f"{a.title} and {b.title} were built with different scorers ({a.scorer_id}, {b.scorer_id})")
    counts = {
        title: records(
            connection,
            "SELECT version, points, patches, coreset_error AS error, images, "
            "(SELECT count(*) FROM (SELECT sha256 FROM bank_members m WHERE m.bank_id = b.bank_id "
            " EXCEPT SELECT sha256 FROM bank_members o WHERE o.bank_id = ?)) AS images_only_here "
            "FROM banks b WHERE bank_id = ?",
            [other.bank_id, one.bank_id],
        )[0]
        for title, one, other in ((bank_a, a, b), (bank_b, b, a))
    }
    facts = [{"": name, bank_a: counts[bank_a][name], bank_b: counts[bank_b][name]} for name in counts[bank_a]]
    crossed = records(connection, "SELECT * FROM crossed(?, ?, ?)", [a.bank_id, b.bank_id, fpr])
    return facts, crossed
