"""Which images the report shows: a bounded number per gallery and source, chosen alike whenever the rows are alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from tasks.parts.columns import COLUMNS
from tasks.warehouse.attach import quoted
from tasks.warehouse.query_rows import Records, records

MOST_GENERATED = "SELECT key, score, p_value, caption FROM scored ORDER BY score DESC, key LIMIT {n}"
MOST_REAL = "SELECT key, score, p_value, caption FROM scored ORDER BY score, key LIMIT {n}"
SOURCES = 8  # shown by name, the largest first; what is left is one more
PER_SOURCE, PER_GALLERY = 24, 96
REASONS, PER_REASON = 16, 8
OTHER = "(other sources)"

_FOLDER = r"regexp_replace(shard_url, '(#slice=\d+of\d+|/[^/]*)$', '')"
_HOST = "coalesce(nullif(regexp_extract(url, '://([^/:?#]+)', 1), ''), '(no url)')"


@dataclass(frozen=True)
class Sources:
    """What the report calls a source: the shards' folder where there are several, else the host that images came from."""

    kind: str  # folder | host
    names: tuple[str, ...]  # by count, largest first
    expression: str  # SQL over `scored`, with one parameter: the names

    @classmethod
    def of(cls, connection: duckdb.DuckDBPyConnection) -> "Sources":
        """Finds the sources of all scored images, in one scan."""
        folders = records(
            connection, f"SELECT DISTINCT {_FOLDER} AS name FROM (SELECT url AS shard_url FROM accounting) LIMIT 2"
        )
        hosted = records(connection, "SELECT 1 FROM scored WHERE url IS NOT NULL LIMIT 1")
        kind, name = ("host", _HOST) if len(folders) < 2 and hosted else ("folder", _FOLDER)
        largest = records(
            connection, f"SELECT {name} AS name, count(*) AS n FROM scored GROUP BY 1 ORDER BY n DESC, name LIMIT {SOURCES}"
        )
        names = tuple(row["name"] for row in largest)
        return cls(kind, names, f"CASE WHEN list_contains($names, {name}) THEN {name} ELSE '{OTHER}' END")

    @property
    def per_source(self) -> int:
        """The most images of one source that one gallery shows."""
        return min(PER_SOURCE, PER_GALLERY // (len(self.names) + 1))


@dataclass(frozen=True)
class Gallery:
    """An ordering of scored images."""

    slug: str
    title: str
    note: str
    view: str
    order: str  # smallest first; image_id, a digest and so a random number, breaks ties
    by_source: bool = True  # the same share for each; a random sample of all must not have that

    def sql(self, per_source: int, several: bool) -> str:
        """Returns what a curator would write for the gallery; ``source`` stands for the expression that the page names."""
        columns = f"SELECT {'{source} AS source, ' if several else ''}key, score, p_value, image_id FROM {self.view}"
        order = ", ".join(dict.fromkeys([self.order, "image_id"]))
        if several:
            return f"{columns}\nQUALIFY row_number() OVER (PARTITION BY source ORDER BY {order}) <= {per_source}"
        return f"{columns}\nORDER BY {order} LIMIT {per_source}"


def galleries(line: float) -> tuple[Gallery, ...]:
    """Returns the galleries of scored images, for a false-positive budget."""
    percent = f"{100 * line:g} %"
    return (
        Gallery("generated", "Most likely generated", "Farthest from the bank of real images.", "scored", "-score"),
        Gallery("line", f"Near the line of a {percent} budget", "The images that the budget decides about.",
                f"decisions({number(line)}) WHERE by_score <> 'unsure'", f"abs(p_value - {number(line)})"),
        Gallery("review", "To review", f"Flagged at {percent}, not looked at yet, in an order of chance that is the same for "
                "everybody: verdicts on the first ones, none left out, measure all flags.",
                f"review_sample({number(line)}, {PER_GALLERY})", "place", by_source=False),
        Gallery("real", "Most surely real", "Nearest to the bank.", "scored", "score"),
        Gallery("random", "Random", "Image ids are digests, so their order is a random one that stays.", "scored", "image_id"),
        Gallery("unsure", "Unsure", "No slice of the bank speaks for their size, JPEG quality or kind, or their reviewer could "
                "not say.", f"unsure({number(line)})", "image_id"),
    )  # fmt: skip


def number(value: float) -> str:
    """Returns a literal that DuckDB reads as this very number; a long decimal would become a DECIMAL, which rounds otherwise.

    >>> number(0.05), number(1 / 3)
    ('0.05', '3.33333333333333315e-01')
    """
    return f"{value:g}" if float(f"{value:g}") == value else f"{value:.17e}"


def shown_sql(gallery: Gallery, sources: Sources) -> str:
    """Returns the gallery's SQL with its values written out, to be copied; the report itself binds them."""
    if not gallery.by_source:
        return gallery.sql(PER_GALLERY, several=False)
    several = len(sources.names) > 1
    return written_out(gallery.sql(sources.per_source, several).replace("{source}", sources.expression), sources)


def written_out(sql: str, sources: Sources) -> str:
    """Returns SQL with the names of the sources written out, to be copied; the report itself binds them."""
    return sql.replace("$names", "[" + ", ".join(map(quoted, sources.names)) + "]")


def select(connection: duckdb.DuckDBPyConnection, gallery: Gallery, sources: Sources) -> list[str]:
    """Returns the image ids of a gallery, in its order.

    One scan with a heap of ``per_source`` rows for each source: a window would sort the whole table. DuckDB's struct order is
    that of its fields, so this is the order of the SQL that the page shows.
    """
    if not gallery.by_source:
        return [str(row["image_id"]) for row in records(connection, shown_sql(gallery, sources))]
    found = records(
        connection,
        f"SELECT source, min(row({gallery.order}, image_id), {sources.per_source}) AS least "
        f"FROM (SELECT *, {sources.expression} AS source FROM {gallery.view}) GROUP BY source",
        {"names": list(sources.names)},
    )
    return [str(identity) for _, identity in sorted(tuple(entry) for row in found for entry in row["least"])]


_DETAILS = """
SELECT d.* EXCLUDE (sidecar, decided_by) REPLACE (
         image_id::VARCHAR AS image_id, shard_id::VARCHAR AS shard_id, run_id::VARCHAR AS run_id, left(url, 1000) AS url,
         left(caption, 300) AS caption, strftime(scored_at, '%Y-%m-%d %H:%M UTC') AS scored_at{labelled}),
       {expression} AS source, left(r.reviewer, 100) AS reviewer, left(r.reason, 300) AS reviewer_said,
       strftime(r.reviewed_at, '%Y-%m-%d %H:%M UTC') AS reviewed_at,
       (SELECT any_value(kind) FROM shards WHERE shards.shard_id = d.shard_id) AS kind
FROM decisions({line}) d LEFT JOIN (SELECT sha256, reviewer, reason, reviewed_at FROM reviewed) r USING (sha256)
WHERE image_id IN (SELECT unnest($ids::UUID[]))
"""


def details(connection: duckdb.DuckDBPyConnection, ids: Sequence[str], sources: Sources, line: float) -> dict[str, Any]:
    """Returns what the page shows of some scored images, by image id."""
    text = [column.name for column in COLUMNS if column.label and column.sql == "VARCHAR"]
    labelled = "".join(f", left({name}, 300) AS {name}" for name in text)
    sql = _DETAILS.format(expression=sources.expression, line=number(line), labelled=labelled)
    return {row["image_id"]: row for row in records(connection, sql, {"names": list(sources.names), "ids": list(ids)})}


REASON_COUNTS = "SELECT reason, count(*) AS members FROM excluded GROUP BY reason ORDER BY members DESC, reason"
_EXCLUDED = f"""
SELECT e.reason, e.key, left(e.detail, 300) AS detail, e.shard_url, e.image_id::VARCHAR AS image_id,
       i.locator, i.bytes, i.sha256, (SELECT any_value(kind) FROM shards WHERE shards.shard_id = e.shard_id) AS kind
FROM (
  SELECT reason, unnest(min({{'image': image_id, 'shard': shard_id}}, {PER_REASON})) AS chosen FROM excluded GROUP BY reason
) c
JOIN excluded e ON e.reason = c.reason AND e.image_id = c.chosen['image'] AND e.shard_id = c.chosen['shard']
LEFT JOIN images i ON i.image_id = e.image_id AND i.shard_id = e.shard_id
ORDER BY e.reason, e.image_id
"""


def excluded(connection: duckdb.DuckDBPyConnection) -> Records:
    """Returns the reasons of exclusion, the most frequent first, each with its count and some members that got it."""
    members = records(connection, _EXCLUDED)
    return [
        reason | {"images": [row for row in members if row["reason"] == reason["reason"]], "sql": EXCLUDED_SQL.format(**reason)}
        for reason in records(connection, f"{REASON_COUNTS} LIMIT {REASONS}")
    ]


EXCLUDED_SQL = "SELECT key, detail, shard_url FROM excluded WHERE reason = '{reason}' ORDER BY image_id LIMIT " + str(
    PER_REASON
)
