"""What a part gives to the tables of the warehouse."""

from mdmf_core.digests import digest_of, short_id
from tasks.parts.outcome import ShardOutcome
from tasks.warehouse.attach import quoted

# Of shard, key and content: the same member has the same id in every run.
_IMAGE_ID = "left(sha256(concat_ws(chr(0), '{shard}', key, p.sha256)), 32)::UUID AS image_id"
# What a part gives to each table, beside the ids of shard, scorer, bank, calibration and run.
# A sidecar that is not JSON travels as a JSON string, so that a foreign file cannot stop a commit.
_FROM_PART = {
    "images": f"SELECT {_IMAGE_ID}, key, p.sha256 AS sha256, format, width, height, bytes, locator, jpeg_quality, border_px, "
    "resized, caption, url, CASE WHEN json_valid(sidecar) THEN sidecar::JSON ELSE to_json(sidecar) END AS sidecar "
    "FROM read_parquet({file}) p WHERE format IS NOT NULL",
    "scores": f"SELECT {_IMAGE_ID}, score, mmd2, cross_term, self_term, top_k, top_patch, patches, p_value, domain, "
    "in_support, scored_at, CASE WHEN contains(url, '://') THEN split_part(url, '/', 3) END AS host "
    "FROM read_parquet({file}) p WHERE reason IS NULL",
    "exclusions": f"SELECT {_IMAGE_ID}, key, reason, detail FROM read_parquet({{file}}) p WHERE reason IS NOT NULL",
}


def shard_id(outcome: ShardOutcome) -> str:
    """UUID of URL, size and content digest; of the URL alone for a shard that was not read to its end."""
    return str(short_id(digest_of({"url": outcome.url, "size": outcome.size_bytes, "digest": outcome.digest})))


def from_part(table: str, outcome: ShardOutcome) -> str:
    """The query for what a part gives to ``images``, ``scores`` or ``exclusions``."""
    return _FROM_PART[table].format(shard=shard_id(outcome), file=quoted(outcome.part or ""))
