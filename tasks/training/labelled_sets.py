"""Listing labelled sets: a manifest, or folders in a layout of the field."""

import io
import os
from dataclasses import asdict
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mdmf_core.collections.folder import IMAGE_SUFFIXES
from mdmf_core.digests import digest_of
from mdmf_core.errors import LabelError
from mdmf_core.training.labelled import LabelledImage, label_of, pair_of
from tasks.storage.checked_reads import read_bytes
from tasks.storage.filesystems import full_url, is_remote, open_storage
from tasks.storage.publishing import whole_file
from tasks.storage.retries import with_retries

_COLUMNS = {"url": ("url", "path", "file"), "group": ("group", "set", "source", "generator")}
_LISTING = pa.schema(
    {
        "url": "string",
        "generated": "bool",
        "group": "string",
        "size_bytes": "int64",
        "fold": "int64",
        "domain": "string",
        "pair": "string",
    }
)
_LABELS = {"real": False, "0": False, "generated": True, "fake": True, "ai": True, "1": True}


def list_labelled(source: str, part: str, max_per_group: int | None, storage_block: str | None) -> list[LabelledImage]:
    """Every image of a labelled set, in order of its path.

    Args:
        source: a .csv or .parquet manifest with the columns label, group (or set, source, generator), url (or path, file), and
            optionally fold, domain, pair, size_bytes; or a folder with ``real/<source>/`` and ``generated/<generator>/`` (below
            ``matched/<pair>/`` where both show the same subjects), or in the layout of ForenSynths
            (``<generator>/0_real|1_fake``) or of GenImage (``<generator>/val/nature|ai``).
        part: ``train`` or ``val``, for GenImage.
        max_per_group: the first images of every group in the order of their names' digests; None = all.

    Raises:
        LabelError, SourceError: a manifest without its columns, an unknown label, or no labelled image at all.
    """
    if source.lower().endswith((".csv", ".parquet")):
        images = _from_manifest(source, storage_block)
    else:
        images = _from_folder(source, part, storage_block)
    if not images:
        raise LabelError(
            f"{source}: no labelled images. Known are a .csv or .parquet manifest, real/<source>/ and generated/<generator>/, "
            "<generator>/0_real and 1_fake, <generator>/val/nature and ai"
        )
    if max_per_group is not None:
        images = _thinned(images, max_per_group)
    return images


def write_listing(folder: str, images: list[LabelledImage]) -> str:
    """Keeps a listing for the other steps of a run, so that a bucket is listed once; its path."""
    path = os.path.join(folder, "listings", f"{digest_of({'images': [list(asdict(i).values()) for i in images]})[:32]}.parquet")
    with whole_file(path) as temporary:
        pq.write_table(pa.Table.from_pylist([asdict(image) for image in images], schema=_LISTING), temporary)
    return path


def read_listing(path: str) -> list[LabelledImage]:
    """The images of a listing, in order."""
    return [LabelledImage(**row) for row in pq.read_table(path).to_pylist()]


def _thinned(images: list[LabelledImage], most: int) -> list[LabelledImage]:
    order = pd.util.hash_array(pd.array([image.url for image in images], dtype="object").to_numpy())
    frame = pd.DataFrame({"generated": [i.generated for i in images], "group": [i.group for i in images], "order": order})
    kept = frame.sort_values("order").groupby(["generated", "group"], sort=False).head(most).index
    return [images[index] for index in sorted(kept)]


def _from_folder(source: str, part: str, storage_block: str | None) -> list[LabelledImage]:
    filesystem, root = open_storage(source, storage_block, listing=True)
    found = with_retries(source, filesystem.find, root, detail=True)
    images = []
    for path, entry in sorted(found.items()):
        relative = path.removeprefix(root.rstrip("/") + "/")
        label = label_of(relative, part) if path.lower().endswith(IMAGE_SUFFIXES) else None
        if label is not None:
            url = full_url(filesystem, path)
            images.append(LabelledImage(url, *label, size_bytes=int(entry["size"]), pair=pair_of(relative)))
    return images


def _from_manifest(source: str, storage_block: str | None) -> list[LabelledImage]:
    data = io.BytesIO(read_bytes(source, storage_block))
    try:
        table = pd.read_csv(data, dtype=str) if source.lower().endswith(".csv") else pq.read_table(data).to_pandas()
    except (ValueError, pa.ArrowException) as error:
        raise LabelError(f"{source}: not a manifest: {error}") from error
    names = {column: next((name for name in known if name in table), None) for column, known in _COLUMNS.items()}
    missing = [" or ".join(_COLUMNS[column]) for column, name in names.items() if name is None]
    if "label" not in table or missing:
        raise LabelError(
            f"{source}: the manifest needs the columns label, {', '.join(' or '.join(c) for c in _COLUMNS.values())}"
        )
    folder = os.path.dirname(source)
    images = []
    for row in table.to_dict("records"):
        label = str(row["label"]).strip().lower()
        if label not in _LABELS:
            raise LabelError(f"{source}: label {row['label']!r} of {row[names['url']]!r}; known are {', '.join(_LABELS)}")
        url = str(row[names["url"]])
        images.append(
            LabelledImage(
                url=url if is_remote(url) or os.path.isabs(url) else f"{folder}/{url}" if folder else url,
                generated=_LABELS[label],
                group=str(row[names["group"]]),
                size_bytes=int(_given(row, "size_bytes") or 0),
                fold=None if _given(row, "fold") is None else int(row["fold"]),
                domain=str(_given(row, "domain") or "photo"),
                pair=_given(row, "pair"),
            )
        )
    return images


def _given(row: dict[Any, Any], name: str) -> Any:
    value = row.get(name)
    return None if value is None or pd.isna(value) or value == "" else value
