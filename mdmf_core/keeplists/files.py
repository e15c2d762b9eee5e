"""The files of a keep-list beside its rows: the manifest that says what made it, and DataComp's list of uids."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mdmf_core.errors import KeepListError

FORMAT = "mdmf-keep-list/1"
METADATA = b"mdmf"  # under which keep.parquet holds the manifest too, all but what was known later


def read_manifest(directory: str) -> dict[str, Any]:
    """``manifest.json`` of a keep-list.

    Raises:
        KeepListError: not there, or of another format.
    """
    path = os.path.join(directory, "manifest.json")
    try:
        with open(path, encoding="utf-8") as file:
            manifest: dict[str, Any] = json.load(file)
    except (OSError, ValueError) as error:
        raise KeepListError(f"{directory} is not a keep-list: {error}. `mdmf export` writes one") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise KeepListError(f"{path} is not of the format {FORMAT}, which this version reads")
    return manifest


def require_whole(directory: str, manifest: dict[str, Any]) -> None:
    """Raises KeepListError unless every file is there and has the digest that the manifest names."""
    for name, facts in manifest["files"].items():
        path = os.path.join(directory, name)
        try:
            with open(path, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError as error:
            raise KeepListError(f"{path} is missing, though the manifest names it") from error
        if found != facts["sha256"]:
            raise KeepListError(f"{path} is not the file of this manifest: its sha256 is {found}, there {facts['sha256']}")


def require_agreement(manifest: Mapping[str, Any], metadata: Mapping[bytes, bytes] | None) -> None:
    """Raises KeepListError unless keep.parquet says the same of itself, in its own metadata, as the manifest."""
    inside = json.loads((metadata or {}).get(METADATA, b"{}"))
    other = [name for name, value in inside.items() if manifest.get(name) != value]
    if other or not inside:
        raise KeepListError(f"manifest.json is not that of keep.parquet: {', '.join(other) or 'everything'} differs")


def require_made_by(manifest: Mapping[str, Any], **expected: str | None) -> None:
    """Raises KeepListError unless the keep-list was made with these: kind = digest, its start, or name."""
    for kind, wanted in expected.items():
        made_by = manifest[kind]
        fits = wanted in (None, made_by["name"]) or (len(wanted or "") >= 8 and made_by["digest"].startswith(wanted))
        if not fits:
            raise KeepListError(
                f"the keep-list was made by {kind} {made_by['name']} ({made_by['digest'][:12]}), not {wanted}: export another"
            )


def datacomp_uids(uids: Iterable[str]) -> np.ndarray:
    """Hexadecimal uids of 128 bits as DataComp's ``u8,u8``: one (first 16 digits, last 16 digits) each, in the order given.

    >>> datacomp_uids(["0000000000000001000000000000000f"])
    array([(1, 15)], dtype=[('f0', '<u8'), ('f1', '<u8')])
    """
    joined = bytes.fromhex("".join(uids))
    pairs = np.frombuffer(joined, ">u8").astype("<u8")
    return pairs.view(np.dtype("<u8,<u8"))
