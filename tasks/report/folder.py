"""The report's folder, on disk or in an object store: only ever our own, and whole for whoever opens it."""

import os
import re

import fsspec

from mdmf_core.errors import ArtifactError
from tasks.faults import storage_errors
from tasks.storage import atomic_path, full_url, open_storage

PAGE, MARKER, PICTURES = "index.html", "mdmf-report.json", "pictures"
_PICTURE = re.compile(r"[0-9a-f]{32}\.(jpg|png)")
_EARLIER = b"<title>MDMF report:"  # how the page without a folder of pictures began


def require_ours(out: str, storage_block: str | None) -> None:
    """Raises ArtifactError when ``out`` holds anything but a report of this program."""
    filesystem, path = open_storage(out, storage_block)
    with storage_errors(out):
        if filesystem.isfile(path):
            raise ArtifactError(f"the report cannot be written to {out}: it is a file. Move it away or choose --out")
        names = _names(filesystem, path)
        if not names or MARKER in names:
            return
        if names == [PAGE] and _EARLIER in filesystem.cat_file(f"{path}/{PAGE}", start=0, end=2000):
            return
    raise ArtifactError(
        f"{out} is not a report of mdmf (no {MARKER} in it, but {names[0]!r}); nothing was written. "
        "Move it away or choose another folder with --out"
    )


def write_folder(out: str, page: bytes, pictures: dict[str, bytes], storage_block: str | None) -> str:
    """Writes the report and gives the URL of its page.

    Pictures are named by their content and written first, the page last and in one step, then pictures that no page names
    are removed: whoever opens the folder meanwhile, or after a crash, finds a page with all its pictures. Other files in it
    stay as they are.

    Raises:
        ArtifactError: as ``require_ours``.
        SourceError: the store refuses.
    """
    require_ours(out, storage_block)
    filesystem, path = open_storage(out, storage_block)
    with storage_errors(out):
        filesystem.makedirs(f"{path}/{PICTURES}", exist_ok=True)
        filesystem.pipe_file(f"{path}/{MARKER}", b'{"written_by": "mdmf", "format": 1}\n')
        there = {_name(entry): entry["size"] for entry in _listing(filesystem, f"{path}/{PICTURES}")}
        # A picture of the same name but another size was cut short by a crash.
        new = {name: data for name, data in pictures.items() if there.get(name) != len(data)}
        if new:
            filesystem.pipe({f"{path}/{PICTURES}/{name}": data for name, data in new.items()})
        _write_page(filesystem, f"{path}/{PAGE}", page)
        for name in there:
            if name not in pictures and _PICTURE.fullmatch(name):
                filesystem.rm_file(f"{path}/{PICTURES}/{name}")
    return full_url(filesystem, f"{path}/{PAGE}")


def _write_page(filesystem: fsspec.AbstractFileSystem, path: str, page: bytes) -> None:
    if full_url(filesystem, path) != path:
        filesystem.pipe_file(path, page)  # an object appears whole
        return
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(page)


def _listing(filesystem: fsspec.AbstractFileSystem, path: str) -> list[dict[str, object]]:
    try:
        filesystem.invalidate_cache(path)
        return list(filesystem.ls(path, detail=True))
    except FileNotFoundError:
        return []


def _name(entry: dict[str, object]) -> str:
    return os.path.basename(str(entry["name"]).rstrip("/"))


def _names(filesystem: fsspec.AbstractFileSystem, path: str) -> list[str]:
    return sorted(name for name in map(_name, _listing(filesystem, path)) if name)
