"""Keeps signatures in one Parquet file per shard and scorer, so that scores by a new bank need no backbone."""

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
    """Gives the path of the signatures that this scorer made of this shard content."""
    name = short_id(digest_of({"url": url, "size": size_bytes, "fingerprint": fingerprint, "scorer_id": scorer_id}))
    return os.path.join(folder, "signatures", f"{name}.parquet")


def is_kept(shard: Shard, share: float) -> bool:
    """Decides whether a shard is among the share of shards whose signatures are kept; every run decides alike."""
    return int(digest_of({"url": shard.url})[:8], 16) < share * 2**32


class SignatureWriter:
    """Writes the signatures of images batch by batch."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer

    def write(self, keys: Sequence[str], sha256s: Sequence[str], signatures: Signatures) -> None:
        """Writes the signatures of the images with these keys and digests, in their order."""
        vectors = [part.half().cpu().numpy().tobytes() for part in torch.split(signatures.vectors, signatures.counts)]
        embeddings = [row.tobytes() for row in signatures.embeddings.half().cpu().numpy()]
        self._writer.write_table(
            pa.table([list(keys), list(sha256s), signatures.counts, vectors, embeddings], schema=_SCHEMA),
        )


@contextmanager
def signature_writer(path: str) -> Iterator[SignatureWriter]:
    """Opens a file of signatures that appears under ``path`` only if the block ends well."""
    with writing(path) as sink, pq.ParquetWriter(sink, _SCHEMA, compression="zstd") as writer:
        yield SignatureWriter(writer)


@dataclass(frozen=True)
class KeptSignatures:
    """The kept signatures of some images, with the keys and digests of these images."""

    keys: list[str]
    sha256s: list[str]
    signatures: Signatures


def read_signatures(path: str, images: int) -> Iterator[KeptSignatures]:
    """Reads kept signatures in the order of the shard, at most ``images`` at a time.

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
                signatures = Signatures(
                    torch.from_numpy(flat.reshape(sum(counts), -1).astype(np.float32)),
                    counts,
                    torch.from_numpy(wide.reshape(len(counts), -1).astype(np.float32)),
                )
                yield KeptSignatures(columns["key"], columns["sha256"], signatures)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise WarehouseError(f"signatures {path} are damaged ({error}); remove the file") from error
