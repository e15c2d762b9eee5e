"""Signatures on disk: one Parquet file per shard and scorer, so that a new bank needs no backbone."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mdmf_core.digests import digest_of, short_id
from mdmf_core.errors import WarehouseError
from mdmf_core.records import Shard
from mdmf_core.scoring.scorer import Signatures
from tasks.parts.store import opened, writing

_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("patches", pa.int32(), nullable=False),
        pa.field("vectors", pa.binary(), nullable=False),  # float16, patches x d
        pa.field("embedding", pa.binary(), nullable=False),  # float16
    ]
)


def signatures_path(folder: str, url: str, size_bytes: int, fingerprint: str, scorer_id: str) -> str:
    """Where the signatures of this shard content by this scorer lie."""
    name = short_id(digest_of({"url": url, "size": size_bytes, "fingerprint": fingerprint, "scorer_id": scorer_id}))
    return os.path.join(folder, "signatures", f"{name}.parquet")


def is_kept(shard: Shard, share: float) -> bool:
    """Whether the signatures of a shard are kept, when this share of all shards is; the same in every run."""
    return int(digest_of({"url": shard.url})[:8], 16) < share * 2**32


class SignatureWriter:
    """Takes the signatures of images batch by batch."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer

    def write(self, keys: Sequence[str], sha256s: Sequence[str], found: Signatures) -> None:
        vectors = [part.half().cpu().numpy().tobytes() for part in torch.split(found.vectors, found.counts)]
        embeddings = [row.tobytes() for row in found.embeddings.half().cpu().numpy()]
        self._writer.write_table(
            pa.table([list(keys), list(sha256s), found.counts, vectors, embeddings], schema=_SCHEMA),
        )


@contextmanager
def signature_writer(path: str) -> Iterator[SignatureWriter]:
    """A file that appears under ``path`` only if the block ends well."""
    with writing(path) as sink, pq.ParquetWriter(sink, _SCHEMA, compression="zstd") as writer:
        yield SignatureWriter(writer)


@dataclass(frozen=True)
class KeptSignatures:
    """Some images' signatures, with their keys."""

    keys: list[str]
    sha256s: list[str]
    found: Signatures


def read_signatures(path: str, images: int) -> Iterator[KeptSignatures]:
    """Batches of at most ``images``, in the order of the shard.

    Raises:
        WarehouseError: the file is damaged.
    """
    try:
        with opened(path) as source, pq.ParquetFile(source) as file:
            for batch in file.iter_batches(images):
                columns = batch.to_pydict()
                counts = columns["patches"]
                flat = np.frombuffer(b"".join(columns["vectors"]), dtype=np.float16)
                wide = np.frombuffer(b"".join(columns["embedding"]), dtype=np.float16)
                found = Signatures(
                    torch.from_numpy(flat.reshape(sum(counts), -1).astype(np.float32)),
                    counts,
                    torch.from_numpy(wide.reshape(len(counts), -1).astype(np.float32)),
                )
                yield KeptSignatures(columns["key"], columns["sha256"], found)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise WarehouseError(f"signatures {path} are damaged ({error}); remove the file") from error
