"""Photographs made from a seed, and shards of them."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from mdmf_core.digests import short_id
from tasks.banks.build import BuildSettings
from tasks.collections.listing import list_shards
from tasks.parts.outcome import ShardOutcome, WorkKey
from tasks.parts.part_files import part_path, part_writer
from tasks.runs.records import RunRecord, start_run
from tasks.scoring.score_shard import score_shard
from tasks.scoring.scoring_setup import ScoringSetup
from tasks.warehouse.landing import land
from tasks.warehouse.migrations import migrate
from tasks.warehouse.warehouse import Warehouse

RUN = "00000000-0000-0000-0000-000000000001"
ROOT = Path(__file__).parents[2]
# Everything that must not depend on when, where or in which run a row was made.
CONTENT = (
    "SELECT key, sha256, format, width, height, bytes, locator, jpeg_quality, border_px, resized, caption, url, sidecar, "
    "round(score, 9) AS score, round(p_value, 9) AS p_value, patches, top_patch, domain, in_support FROM scored ORDER BY key"
)


def photo(seed: int, width: int = 256, height: int = 240) -> Image.Image:
    """Draws a picture of smooth random structure with grain, so that JPEG, crops and kernels have something to work on."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    grain = random.normal(0, 6, (height, width, 3))
    return Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8))


def encoded(seed: int, format: str = "JPEG", width: int = 256, height: int = 240, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    photo(seed, width, height).save(buffer, format, **({"quality": quality} if format == "JPEG" else {}))
    return buffer.getvalue()


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def write_shard(path: Path, seeds: range, extra: dict[str, bytes] | None = None) -> Path:
    """Writes a shard in img2dataset's layout, with its stats file."""
    files: dict[str, bytes] = {}
    for seed in seeds:
        key = f"{seed:09d}"
        files[f"{key}.jpg"] = encoded(seed)
        files[f"{key}.txt"] = f"caption {seed}".encode()
        files[f"{key}.json"] = json.dumps({"key": key, "url": f"https://example.org/{seed}.jpg"}).encode()
    files |= extra or {}
    path.with_name(f"{path.stem}_stats.json").write_text(json.dumps({"successes": len(seeds)}))
    return write_tar(path, files)


def generated(seed: int, format: str = "JPEG", quality: int = 75) -> bytes:
    """Draws a picture as an upsampler leaves it: detail of half the resolution, and a faint checkerboard."""
    small = photo(seed, 128, 120).resize((256, 240), Image.Resampling.NEAREST)
    board = 6 * ((np.indices((240, 256)).sum(0) % 2) * 2 - 1)[:, :, None]
    buffer = io.BytesIO()
    Image.fromarray((np.asarray(small) + board).clip(0, 255).astype(np.uint8)).save(
        buffer, format, **({"quality": quality} if format == "JPEG" else {})
    )
    return buffer.getvalue()


def write_labelled(folder: Path, groups: str = "abc", images: int = 16) -> Path:
    """Writes the folders ``real/<source>`` and ``generated/<generator>`` with some images each."""
    for number, group in enumerate(groups):
        for label in ("real", "generated"):
            (folder / label / group).mkdir(parents=True)
        for seed in range(100 * number, 100 * number + images):
            (folder / "real" / group / f"{seed}.jpg").write_bytes(encoded(seed))
            (folder / "generated" / group / f"{seed}.jpg").write_bytes(generated(5000 + seed))
    return folder


def build_settings(source: object, store: object, scorer: str, **changes: object) -> BuildSettings:
    """Gives settings for a small bank that is called tiny."""
    defaults = {
        "name": "tiny", "points": 100, "max_error": 0.0, "compression": "herding", "max_images": 400, "domains": "photo",
        "match": (), "expel": None, "device": "cpu", "storage_block": None,
    }  # fmt: skip
    return BuildSettings(source=str(source), store=str(store), scorer=scorer, **defaults | changes)


def write_folder(path: Path, seeds: range, **options: object) -> Path:
    """Writes a folder of images, one for each seed."""
    path.mkdir(parents=True)
    for seed in seeds:
        (path / f"{seed}.jpg").write_bytes(encoded(seed, **options))
    return path


def open_warehouse(path: Path, setup: ScoringSetup) -> str:
    """Makes a warehouse with its registry and one run that has not ended."""
    with Warehouse.at(str(path)).connect() as connection:
        migrate(connection)
        start_run(connection, RunRecord(RUN, "curate", "s", {}, "0", "h", "cpu"), setup, promote=False)
    return str(path)


def outcome_of(source: Path, warehouse: str, setup: ScoringSetup) -> ShardOutcome:
    """Scores a shard into its part and does not land it."""
    (shard,) = list_shards(str(source), 1000)
    return score_shard(shard, setup, Warehouse.at(warehouse).parts, RUN, None, lambda members: None)


def with_an_exclusion(outcome: ShardOutcome, source: Path, warehouse: str, setup: ScoringSetup) -> tuple[WorkKey, ShardOutcome]:
    """Registers a second calibration and writes the shard's part under it, whose second member took the decoder too long."""
    key = replace(setup.key, calibration_id="f" * 64)
    with Warehouse.at(warehouse).connect() as connection:
        connection.execute(
            "INSERT INTO calibrations SELECT * REPLACE (?::UUID AS calibration_id, ? AS digest) FROM calibrations",
            [str(short_id(key.calibration_id)), key.calibration_id],
        )
    (shard,) = list_shards(str(source), 1000)
    rows = pq.read_table(outcome.part).to_pylist()
    facts = ("key", "sha256", "bytes", "locator", "caption", "url", "sidecar")
    rows[1] = {name: rows[1][name] for name in facts} | {"reason": "decoder_timeout", "detail": "longer than 30 s"}
    path = part_path(Warehouse.at(warehouse).parts, shard, key)
    with part_writer(path) as part:
        part.write(rows)
        part.close_with(replace(outcome, scored=outcome.scored - 1, excluded=outcome.excluded + 1))
    return key, part.outcome


def landed(warehouse: Path, source: object, setup: ScoringSetup, scorer: str = "default") -> str:
    """Makes a warehouse with the rows of a source, without Prefect: reads, scores and lands as the flow does."""
    with Warehouse.at(str(warehouse)).connect() as connection:
        migrate(connection)
        record = RunRecord(RUN, "curate", str(source), {"scorer": scorer}, "0.1.0", "host", "cpu float32")
        start_run(connection, record, setup, promote=False)
    shards = list_shards(str(source), 1000)
    outcomes = [
        score_shard(shard, setup, Warehouse.at(str(warehouse)).parts, RUN, None, lambda members: None) for shard in shards
    ]
    land(Warehouse.at(str(warehouse)), outcomes, setup.key)
    return str(warehouse)
