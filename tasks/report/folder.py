"""The report's folder, on disk or in an object store: only ever our own, and whole for whoever opens it."""

import os
import re
from concurrent.futures import ThreadPoolExecutor

from mdmf_core.errors import ArtifactError
from tasks.storage.checked_reads import read_range
from tasks.storage.filesystems import entry_of, full_url, listing, open_storage
from tasks.storage.publishing import write_bytes
from tasks.storage.retries import with_retries

PAGE, MARKER, PICTURES = "index.html", "mdmf-report.json", "pictures"
_WRITERS = 8  # pictures sent at a time
_PICTURE = re.compile(r"[0-9a-f]{32}\.(jpg|png)")
_EARLIER = b"<title>MDMF report:"  # how the page without a folder of pictures began


def require_ours(out: str, storage_block: str | None) -> None:
    """Raises ArtifactError when ``out`` holds anything but a report of this program."""
    filesystem, path = open_storage(out, storage_block)
    filesystem.invalidate_cache()  # what others wrote since
    if (entry_of(out, filesystem, path) or {}).get("type") == "file":
        raise ArtifactError(f"the report cannot be written to {out}: it is a file. Move it away or choose --out")
    names = sorted(name for name in map(_name, listing(filesystem, path)) if name)
    if not names or MARKER in names:
        return
    if names == [PAGE] and _EARLIER in read_range(full_url(filesystem, f"{path}/{PAGE}"), 0, 2000, storage_block):
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

    def write(picture: tuple[str, bytes]) -> None:
        with_retries(out, filesystem.pipe_file, f"{path}/{PICTURES}/{picture[0]}", picture[1])

    with_retries(out, filesystem.makedirs, f"{path}/{PICTURES}", exist_ok=True)
    url = full_url(filesystem, path)
    write_bytes(f"{url}/{MARKER}", b'{"written_by": "mdmf", "format": 1}\n', storage_block)
    there = {_name(entry): entry["size"] for entry in listing(filesystem, f"{path}/{PICTURES}")}
    # A picture of the same name but another size was cut short by a crash.
    new = {name: data for name, data in pictures.items() if there.get(name) != len(data)}
    with ThreadPoolExecutor(_WRITERS, thread_name_prefix="report") as pool:
        list(pool.map(write, new.items()))
    write_bytes(f"{url}/{PAGE}", page, storage_block)
    for name in there:
        if name not in pictures and _PICTURE.fullmatch(name):
            with_retries(out, filesystem.rm_file, f"{path}/{PICTURES}/{name}")
    return f"{url}/{PAGE}"


def _name(entry: dict[str, object]) -> str:
    return os.path.basename(str(entry["name"]).rstrip("/"))
