"""Keep-lists: which members of a corpus to read, applied to a stream of samples or rows. Needs neither torch nor a database.

A keep-list is a folder that `mdmf export` wrote: `keep.parquet` (one row per kept member, sorted by shard and key),
`shards.parquet` (one row per shard that it speaks for, kept or not) and `manifest.json` (scorer, bank, calibration, query).
"""

import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mdmf_core.collections.parquet import image_bytes
from mdmf_core.collections.parquet_columns import image_column
from mdmf_core.collections.text import readable
from mdmf_core.errors import KeepListError
from mdmf_core.keeplists.checks import Sample, _common, _components, _require_digest, _require_same_image, images_of, main_of
from mdmf_core.keeplists.files import read_manifest, require_agreement, require_made_by, require_whole

Missing = Literal["error", "drop", "keep"]
Verify = Literal["none", "first", "all"]

_KEYS_HELD = 400_000  # about 100 MB; a worker reads shard after shard, a shuffle before the filter mixes some


@dataclass(frozen=True, slots=True)
class ListedShard:
    """One shard that the keep-list speaks for, though it may keep nothing of it."""

    shard_url: str
    kind: str  # tar | parquet | folder
    size_bytes: int
    digest: str
    members: int
    scored: int
    kept: int
    first_row: int  # of its rows in keep.parquet


class KeepList:
    """The keep-list in ``directory``, a local folder.

    Memory does not grow with the list: the rows of a shard are read when its first sample comes, and those of the last
    few shards are held. Matching is by shard and key, since keys repeat across shards. A shard is found by its URL, or else by
    the end of its path, so that a copy elsewhere is recognised.

    Args:
        missing: what becomes of samples of a shard that the list has never seen, as when it was made for another corpus.
        verify: ``first`` compares the sha256 of the first kept image of every shard with that of the image that was scored,
            ``all`` of every one; both need the undecoded bytes, so filter before decoding.
        scorer, bank, calibration: digest, its start (8 characters or more) or name that the list must have been made with.
        check: compare the files with the digests in the manifest.

    Raises:
        KeepListError: not a keep-list, damaged, or made by another scorer, bank or calibration.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        missing: Missing = "error",
        verify: Verify = "first",
        scorer: str | None = None,
        bank: str | None = None,
        calibration: str | None = None,
        check: bool = True,
    ) -> None:
        for name, value, kind in (("missing", missing, Missing), ("verify", verify, Verify)):
            if value not in get_args(kind):
                raise ValueError(f"{name} is one of {', '.join(get_args(kind))}; got {value!r}")
        self.directory = os.path.abspath(directory)
        self.missing, self.verify = missing, verify
        self.manifest = read_manifest(self.directory)
        require_made_by(self.manifest, scorer=scorer, bank=bank, calibration=calibration)
        if check:
            require_whole(self.directory, self.manifest)
        rows = pq.read_table(os.path.join(self.directory, "shards.parquet"), use_threads=False).to_pylist()
        self.shards: dict[str, ListedShard] = {row["shard_url"]: ListedShard(**row) for row in rows}
        self._by_name: dict[str, list[str]] = {}
        for url in self.shards:
            self._by_name.setdefault(_components(url)[0], []).append(url)
        metadata = pq.read_metadata(self.path)
        require_agreement(self.manifest, metadata.metadata)
        sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        self._starts = np.cumsum([0, *sizes])
        self._metadata = metadata
        self._found: dict[str, ListedShard | None] = {}
        self._held: OrderedDict[str, dict[str, str]] = OrderedDict()
        self._checked: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        """Workers that are spawned open the list again; it was checked here."""
        return _reopened, (type(self), self.directory, self.missing, self.verify)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def path(self) -> str:
        """Path of ``keep.parquet``, for tools that read it themselves."""
        return os.path.join(self.directory, "keep.parquet")

    def to_table(self, columns: list[str] | None = None) -> pa.Table:
        """The whole list as an Arrow table."""
        return pq.read_table(self.path, columns=columns)

    def to_pandas(self, columns: list[str] | None = None) -> Any:
        """The whole list as a pandas frame."""
        return self.to_table(columns).to_pandas()

    def shard(self, url: str) -> ListedShard | None:
        """The shard that a stream calls ``url``: by its URL, or else by the longest end of its path that only one has.

        Raises:
            KeepListError: several shards fit equally well.
        """
        if url not in self._found:
            self._found[url] = self.shards.get(url) or self._by_path(url)
        return self._found[url]

    def _by_path(self, url: str) -> ListedShard | None:
        wanted = _components(url)
        shared = {other: _common(wanted, _components(other)) for other in self._by_name.get(wanted[0], [])}
        best = [other for other, length in shared.items() if length == max(shared.values())]
        if len(best) > 1:
            raise KeepListError(f"{url} may be {' or '.join(sorted(best)[:2])} of the keep-list; give the shard's whole path")
        return self.shards[best[0]] if best else None

    def kept(self, url: str) -> dict[str, str]:
        """sha256 by key of what is kept of one shard.

        Raises:
            KeepListError: the list has never seen this shard.
        """
        shard = self.shard(url)
        if shard is None:
            raise KeepListError(self._unknown(url))
        held = self._held
        if shard.shard_url not in held:
            table = self.rows(shard, ["key", "sha256"])
            held[shard.shard_url] = dict(zip(table["key"].to_pylist(), table["sha256"].to_pylist(), strict=True))
            while len(held) > 1 and sum(map(len, held.values())) > _KEYS_HELD:
                held.popitem(last=False)
        held.move_to_end(shard.shard_url)
        return held[shard.shard_url]

    def rows(self, shard: ListedShard, columns: list[str] | None = None) -> pa.Table:
        """The rows of one shard; reads the row groups that hold them. Without threads, which a forked worker would lack."""
        if not shard.kept:
            return self._metadata.schema.to_arrow_schema().empty_table().select(columns or self._metadata.schema.names)
        last = shard.first_row + shard.kept - 1
        low, high = (int(np.searchsorted(self._starts, row, "right")) - 1 for row in (shard.first_row, last))
        with pq.ParquetFile(self.path, metadata=self._metadata) as file:
            table = file.read_row_groups(list(range(low, high + 1)), columns=columns, use_threads=False)
        return table.slice(shard.first_row - int(self._starts[low]), shard.kept)

    def keeps(self, sample: Sample) -> bool:
        """Whether a WebDataset sample (a dict with ``__url__`` and ``__key__``) is kept: its image, or all without a main one.

        Raises:
            KeepListError: its shard is not in the list (``missing="error"``), or its image is not the one that was scored.
        """
        try:
            url, key = sample["__url__"], readable(sample["__key__"])
        except KeyError as error:
            raise ValueError(f"a sample needs __url__ and __key__, got {', '.join(map(str, sample))}") from error
        shard = self.shard(url)
        if shard is None:
            return self._without_shard(url)
        kept = self.kept(url)
        images = None if key in kept else images_of(sample, key)
        if images is not None and not (images and kept.keys() >= images.keys()):
            return False
        if self._to_verify(shard):
            for name, data in (images or main_of(sample, key)).items():
                _require_same_image(data, kept[name], shard.shard_url, name)
        return True

    def filter(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """The kept samples of a stream: ``wds.WebDataset(urls).compose(keep_list.filter)``."""
        return (sample for sample in samples if self.keeps(sample))

    def filter_batches(self, batches: Iterable[pa.RecordBatch], url: str) -> Iterator[pa.RecordBatch]:
        """The kept rows of one parquet shard, whose batches must come whole and in order: rows are found by their number.

        Raises:
            KeepListError: the shard is not in the list (``missing="error"``), an image is not the one that was scored, or the
                shard has another number of rows than when it was scored.
        """
        shard = self.shard(url)
        if shard is None:
            if self._without_shard(url):
                yield from batches
            return
        table = self.rows(shard, ["locator", "key", "sha256"]).sort_by("locator")
        numbers, start = table["locator"].to_numpy(), 0
        for batch in batches:
            low, high = np.searchsorted(numbers, [start, start + batch.num_rows])
            if low < high:
                chosen = _taken(batch, numbers[low:high] - start)
                self._verify_rows(chosen, table.slice(low, high - low), shard)
                yield chosen
            start += batch.num_rows
        if start != shard.members:
            raise KeepListError(f"{url} has {start} rows, {shard.members} when it was scored; curate and export again")

    def _verify_rows(self, batch: pa.RecordBatch, listed: pa.Table, shard: ListedShard) -> None:
        if self.verify == "none":
            return
        column = image_column(batch.schema)
        for value, key, sha256 in zip(batch[column], listed["key"].to_pylist(), listed["sha256"].to_pylist(), strict=True):
            if not self._to_verify(shard):
                return
            _require_digest(image_bytes(value.as_py())[0] or b"", sha256, shard.shard_url, key)

    def _to_verify(self, shard: ListedShard) -> bool:
        if self.verify == "first" and shard.shard_url not in self._checked:
            self._checked.add(shard.shard_url)
            return True
        return self.verify == "all"

    def _without_shard(self, url: str) -> bool:
        if self.missing == "error":
            raise KeepListError(self._unknown(url))
        return self.missing == "keep"

    def _unknown(self, url: str) -> str:
        example = next(iter(self.shards), "no shard at all")
        return (
            f"{url} is not among the {len(self.shards)} shards of keep-list {self.directory} (such as {example}): made for "
            'another corpus, or not curated yet? missing="drop" or "keep" decides otherwise'
        )


def _taken(batch: pa.RecordBatch, rows: np.ndarray) -> pa.RecordBatch:
    try:
        return batch.take(pa.array(rows))
    except pa.ArrowNotImplementedError:  # pyarrow takes no rows of view types
        return pa.concat_batches([batch.slice(row, 1) for row in rows.tolist()])


def _reopened(kind: type[KeepList], directory: str, missing: Missing, verify: Verify) -> KeepList:
    return kind(directory, missing=missing, verify=verify, check=False)
