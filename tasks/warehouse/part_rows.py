"""The rows that a part brings to each table of the warehouse."""

from mdmf_core.digests import digest_of, short_id
from tasks.parts.columns import Column, Table, columns_of, part_schema
from tasks.parts.outcome import ShardOutcome
from tasks.warehouse.attach import quoted

# The digest of shard, key and content, so that a member has one id in every run.
_IMAGE_ID = "left(sha256(concat_ws(chr(0), '{shard}', p.key, p.sha256)), 32)::UUID"
_HOST = "CASE WHEN contains(url, '://') THEN split_part(url, '/', 3) END AS host"
_WHICH: dict[Table, str] = {"images": "format IS NOT NULL", "scores": "reason IS NULL", "exclusions": "reason IS NOT NULL"}


def shard_id(outcome: ShardOutcome) -> str:
    """Returns the UUID of URL, size and content digest; for a shard that was not read to its end, of the URL alone."""
    return str(short_id(digest_of({"url": outcome.url, "size": outcome.size_bytes, "digest": outcome.digest})))


def from_part(table: Table, outcome: ShardOutcome) -> str:
    """Returns the query for what a part brings to a table, without the ids of shard, scorer, bank, calibration and run."""
    values = [f"{_IMAGE_ID.format(shard=shard_id(outcome))} AS image_id", *map(_landed, columns_of(table))]
    if table == "scores":
        values.append(_HOST)
    # The empty rows of NULLs lend their columns to a part that was written before one of them existed.
    nulls = ", ".join(f"NULL AS {name}" for name in part_schema().names)
    rows = f"FROM read_parquet({quoted(outcome.part or '')}) UNION ALL BY NAME SELECT {nulls} WHERE false"
    return f"SELECT {', '.join(values)} FROM ({rows}) p WHERE {_WHICH[table]}"


def _landed(column: Column) -> str:
    """Returns the SQL for the value of a column that lands."""
    value = f"p.{column.name}"
    if column.absent is not None:
        value = f"coalesce({value}, {quoted(str(column.absent))}::{column.sql})"
    if column.sql == "JSON":  # a sidecar that is not JSON lands as a JSON string, so that a foreign file cannot stop a commit
        return f"CASE WHEN json_valid({value}) THEN {value}::JSON ELSE to_json({value}) END AS {column.name}"
    return f"{value}::{column.sql} AS {column.name}"


def compared_columns(table: Table) -> list[str]:
    """Returns the columns in which `mdmf verify` compares a table's rows with those of the parts, in the order of the hash."""
    return ["image_id", *(column.name for column in columns_of(table) if column.compared)]
