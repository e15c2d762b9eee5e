"""CSV files of verdicts: reading them strictly, and writing samples to fill in."""

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tasks.storage.publishing import whole_file

VERDICTS = ("generated", "real", "unsure")
_SHOWN = ("place", "score", "p_value", "caption", "url")  # for the reviewer; read past
SAMPLE = ("image_id", "shard_url", "key", "verdict", "reviewer", "reason", *_SHOWN)
_COLUMNS = (*SAMPLE, "reviewed_at")
_MOST = 20  # problems named in one refusal


@dataclass(frozen=True)
class Review:
    """One line of a file. ``reviewed_at`` is None where the file does not say."""

    line: int
    image_id: str
    shard_url: str
    key: str
    verdict: str
    reviewer: str
    reason: str | None
    reviewed_at: datetime | None


def parse(text: str, reviewer: str | None, now: datetime) -> tuple[list[Review], int]:
    """Returns the lines with a verdict, and how many lines have none yet.

    Args:
        reviewer: who it was where the file does not say.

    Raises:
        ValueError: columns, verdicts, names or times that cannot be used; with their lines.
    """
    rows = csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    found, problems, blank = [], [], 0
    try:
        names = list(rows.fieldnames or [])
        if len(names) != len(set(names)) or not {"image_id", "verdict"} <= set(names) <= set(_COLUMNS):
            raise ValueError(
                f"its columns are {', '.join(names) or 'none'}; image_id and verdict are needed, allowed are "
                f"{', '.join(_COLUMNS)}, each once"
            )
        for row in rows:
            if None in row or None in row.values():
                problems.append(f"line {rows.line_num}: not {len(names)} fields, as the first line has")
            elif not row["verdict"].strip():
                blank += 1
            else:
                try:
                    found.append(_review(row, rows.line_num, reviewer, now))
                except ValueError as error:
                    problems.append(f"line {rows.line_num}: {error}")
    except csv.Error as error:
        raise ValueError(f"not CSV after line {rows.line_num}: {error}") from error
    refuse(problems)
    return found, blank


def refuse(problems: Sequence[str]) -> None:
    """Raises a ValueError that names the problems, if there are any."""
    if problems:
        more = [f"and {len(problems) - _MOST} more"] if len(problems) > _MOST else []
        raise ValueError("; ".join([*problems[:_MOST], *more]))


def _review(row: dict[str, str], line: int, reviewer: str | None, now: datetime) -> Review:
    verdict = row["verdict"].strip().lower()
    if verdict not in VERDICTS:
        raise ValueError(f"verdict {row['verdict']!r} is none of {', '.join(VERDICTS)}")
    who = row.get("reviewer", "").strip() or reviewer
    if not who:
        raise ValueError("no reviewer; fill the column or give --reviewer")
    when = row.get("reviewed_at", "").strip()
    moment = _moment(when) if when else None
    if moment is not None and moment > now:
        raise ValueError(f"reviewed_at {when!r} lies in the future")
    return Review(
        line, row["image_id"].strip().lower(), row.get("shard_url", ""), row.get("key", ""), verdict, who,
        row.get("reason", "").strip() or None, moment,
    )  # fmt: skip


def _moment(text: str) -> datetime:
    """Reads a moment; one without a zone is in UTC."""
    found = datetime.fromisoformat(text)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


def write_sample(path: str, rows: Sequence[dict[str, Any]]) -> None:
    """Writes a CSV file with empty columns for the verdicts.

    Raises:
        ValueError: the file is there already; it may hold somebody's verdicts.
    """
    if os.path.exists(path):
        raise ValueError(f"{path} is there already, perhaps with verdicts; give another name")
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, SAMPLE, restval="")
        writer.writeheader()
        writer.writerows(row | {name: cell(row[name]) for name in ("shard_url", "key", "caption", "url")} for row in rows)


def cell(text: str | None) -> str | None:
    """Returns foreign text in a form that no spreadsheet takes for a formula."""
    return f"'{text}" if text and text[0] in "=+-@\t\r" else text
