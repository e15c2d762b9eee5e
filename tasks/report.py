"""The report: one HTML page that opens from disk, asks nothing of the network and runs no script."""

import base64
import os
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import duckdb
from jinja2 import Environment, StrictUndefined

from mdmf_core.errors import SourceError
from mdmf_core.images import decode, thumbnail
from mdmf_core.records import ImageExcluded
from tasks.extract import LIMITS
from tasks.shards import read_member
from tasks.storage import atomic_path
from tasks.warehouse import connect

_SIDE = 240  # thumbnail, pixels
_GALLERY = 18
_BINS = 20
_BUDGETS = (0.01, 0.05, 0.1)
MOST_GENERATED = "SELECT key, score, p_value, caption FROM scored ORDER BY score DESC, key LIMIT {n}"
MOST_REAL = "SELECT key, score, p_value, caption FROM scored ORDER BY score, key LIMIT {n}"
NEAR_LINE = "SELECT key, score, p_value, caption FROM scored WHERE in_support ORDER BY abs(p_value - 0.05), key LIMIT {n}"


def write_report(warehouse: str, source: str, storage_block: str | None) -> str | None:
    """Writes ``WAREHOUSE.report/index.html`` on the promoted scorer and bank; its path, or None when nothing is scored."""
    with connect(warehouse, read_only=True) as connection:
        page = _page(connection, source, storage_block)
    if page is None:
        return None
    path = os.path.join(os.path.abspath(warehouse) + ".report", "index.html")
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(
        (files("tasks") / "report.html.jinja").read_text()
    )
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(template.render(page))
    return path


def _rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[dict[str, Any]]:
    rows = connection.execute(sql).fetchall()
    names = [column[0] for column in connection.description or []]
    return [dict(zip(names, row, strict=True)) for row in rows]


def _page(connection: duckdb.DuckDBPyConnection, source: str, storage_block: str | None) -> dict[str, Any] | None:
    total = _rows(
        connection,
        "SELECT coalesce(sum(members), 0)::BIGINT AS members, coalesce(sum(scored), 0)::BIGINT AS scored, "
        "coalesce(sum(excluded), 0)::BIGINT AS excluded FROM accounting WHERE state = 'complete'",
    )[0]
    if not total["scored"]:
        return None
    (registry,) = _rows(
        connection,
        "SELECT left(p.scorer_id::VARCHAR, 8) AS scorer_id, s.name AS scorer, left(p.bank_id::VARCHAR, 8) AS bank_id, "
        "b.name AS bank, b.images, b.points, left(p.calibration_id::VARCHAR, 8) AS calibration_id, c.images AS calibrated, "
        "c.smallest_budget FROM promoted p JOIN scorers s USING (scorer_id) JOIN banks b USING (bank_id) "
        "JOIN calibrations c USING (calibration_id)",
    )
    budgets = [fpr for fpr in _BUDGETS if fpr >= registry["smallest_budget"]]
    return {
        "source": source,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "scorer": {"name": registry["scorer"], "id": registry["scorer_id"]},
        "bank": {"name": registry["bank"], "id": registry["bank_id"]} | {name: registry[name] for name in ("images", "points")},
        "calibration": {
            "id": registry["calibration_id"],
            "images": registry["calibrated"],
            "budget": registry["smallest_budget"],
        },
        "total": total,
        "flagged": [
            {"fpr": fpr, "count": _rows(connection, f"SELECT count(*) AS n FROM flagged({fpr})")[0]["n"]} for fpr in budgets
        ],
        "unsure": _rows(connection, "SELECT count(*) AS n FROM unsure()")[0]["n"],
        "bars": _bars(connection),
        "galleries": [
            _gallery(connection, *text, storage_block)
            for text in (
                ("Most likely generated", "Farthest from the bank of real images.", MOST_GENERATED),
                ("Near the line of a 5 % budget", "The images that a budget decides about.", NEAR_LINE),
                ("Most surely real", "Nearest to the bank.", MOST_REAL),
            )
        ],
        "shards": _rows(connection, "SELECT * FROM accounting LIMIT 200"),
        "exclusions": _rows(
            connection,
            "SELECT reason, count(*) AS members, min(key) AS key, min_by(detail, key) AS detail FROM excluded "
            "GROUP BY reason ORDER BY members DESC, reason",
        ),
    }


def _bars(connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    counted = {
        row["bin"]: row["n"]
        for row in _rows(connection, f"SELECT (ceil(p_value * {_BINS}) - 1)::INT AS bin, count(*) AS n FROM scored GROUP BY 1")
    }
    highest = max(counted.values())
    return [
        {
            "low": number / _BINS,
            "high": (number + 1) / _BINS,
            "count": counted.get(number, 0),
            "height": round(160 * counted.get(number, 0) / highest, 1),
        }
        for number in range(_BINS)
    ]


def _gallery(
    connection: duckdb.DuckDBPyConnection, title: str, note: str, sql: str, storage_block: str | None
) -> dict[str, Any]:
    query = sql.format(n=_GALLERY)
    wide = query.replace("SELECT key,", "SELECT image_id, shard_id, key,")
    rows = _rows(
        connection,
        f"SELECT q.*, i.locator, i.bytes, i.sha256, sh.url AS shard_url, sh.kind FROM ({wide}) q "
        "JOIN images i USING (image_id, shard_id) JOIN (SELECT DISTINCT shard_id, url, kind FROM shards) sh USING (shard_id)",
    )
    order = {row["image_id"]: number for number, row in enumerate(_rows(connection, wide))}
    rows.sort(key=lambda row: order[row["image_id"]])
    return {
        "title": title,
        "note": note,
        "sql": query,
        "rows": [row | {"thumbnail": _thumbnail(row, storage_block)} for row in rows],
    }


def _thumbnail(row: dict[str, Any], storage_block: str | None) -> str | None:
    """Base64 JPEG; None when the source no longer gives the image, which must not cost the page."""
    try:
        data = read_member(row["shard_url"], row["kind"], row["key"], row["locator"], row["bytes"], storage_block)
        return base64.b64encode(thumbnail(decode(data, LIMITS), _SIDE)).decode()
    except (SourceError, ImageExcluded):
        return None
