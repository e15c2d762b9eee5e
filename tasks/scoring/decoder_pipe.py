"""One decoder process is started, sent images, asked for their pixels and ended through its pipes."""

import json
import logging
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from fcntl import fcntl
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from jaxtyping import UInt8

from mdmf_core.errors import MdmfError
from mdmf_core.images.crops import CropPlan
from mdmf_core.images.decode import ImageLimits
from mdmf_core.records import DecodedFacts, DecodedImage, ExclusionReason
from tasks.scoring.decoder_process import LENGTHS, frame

CHILD = (sys.executable, "-P", "-m", "tasks.scoring.decoder_process")
_INHERITED = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "TMPDIR")  # no secrets
_PIPE_BYTES = 2**20  # what Linux lets an ordinary user ask for
_F_SETPIPE_SZ = 1031
_HEADER_BYTES = 2**16
_START_SECONDS = 60.0
_EXIT_SECONDS = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decoded:
    """What a decoder says of one image: its crops or the whole of it, as asked, or why not; the facts if it was decoded."""

    facts: DecodedFacts | None
    crops: UInt8[np.ndarray, "n 3 size size"] | None
    reason: ExclusionReason | None = None
    detail: str = ""
    image: DecodedImage | None = None  # where no crops were asked for


class DecoderEnded(Exception):
    """A decoder process ended, or its answer made no sense."""


class DecoderOverran(Exception):
    """A decoder process took longer than the limit."""


class _Child:
    """One decoder process and the two pipes to it."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        try:
            self._process = subprocess.Popen(
                argv, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, env=_environment()
            )
        except OSError as error:  # no memory, or too many processes or files
            self._stderr.close()
            raise MdmfError(f"a decoder cannot be started: {error}; command: {' '.join(argv)}") from error
        self._requests, self._replies = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)
        os.set_blocking(self._requests.fileno(), False)
        for pipe in (self._requests, self._replies):
            with suppress(OSError):  # another system, or this user's pipes are many: the usual 64 KiB then
                fcntl(pipe, _F_SETPIPE_SZ, _PIPE_BYTES)
        try:
            self._receive(time.monotonic() + _START_SECONDS, 0)
        except (DecoderEnded, DecoderOverran) as error:
            ending, printed = str(error) or "no sign of life", self._printed()
            self.kill()
            raise MdmfError(f"a decoder cannot be started: {ending}; {' '.join(argv)} printed:\n{printed}") from error

    def decode(self, data: bytes, plan: CropPlan | None, limits: ImageLimits) -> Decoded:
        """Returns the decoder's answer: the image's crops, or all its pixels where there is no plan.

        Raises:
            DecoderEnded: the process ended or answered nonsense; it is of no more use.
            DecoderOverran: the process took longer than the limit; it is of no more use.
        """
        deadline = time.monotonic() + limits.max_seconds
        self._send(frame({"limits": asdict(limits), "plan": None if plan is None else asdict(plan)}, len(data)), deadline)
        self._send(data, deadline)
        reply, body = self._receive(deadline, 3 * (limits.max_pixels if plan is None else plan.most * plan.size**2))
        try:
            return _checked(reply, body, plan)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DecoderEnded(f"its answer makes no sense: {type(error).__name__}: {error}"[:200]) from error

    def kill(self) -> None:
        """Ends the child at once; what it printed goes to the log at debug level."""
        self._process.kill()
        self._process.wait()
        log.debug("decoder %d ended with %s: %s", self._process.pid, self._status(), self._printed())
        self._close_files()

    def close(self) -> None:
        """Ends an idle child by closing its input."""
        self._requests.close()
        try:
            self._process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._close_files()

    def _close_files(self) -> None:
        for file in (self._requests, self._replies, self._stderr):
            file.close()

    def _send(self, data: bytes, deadline: float) -> None:
        left = memoryview(data)
        try:
            while left:
                try:
                    left = left[os.write(self._requests.fileno(), left) :]
                except BlockingIOError:
                    _wait_for(self._requests.fileno(), select.POLLOUT, deadline)
        except BrokenPipeError as error:
            raise DecoderEnded(self._ending()) from error

    def _receive(self, deadline: float, most: int) -> tuple[dict[str, Any], bytearray]:
        header_bytes, body_bytes = LENGTHS.unpack(self._read(LENGTHS.size, deadline))
        if header_bytes > _HEADER_BYTES or body_bytes > most:
            raise DecoderEnded(f"its answer makes no sense: lengths {header_bytes} and {body_bytes}")
        text = self._read(header_bytes, deadline)
        body = self._read(body_bytes, deadline)
        try:
            return json.loads(text), body
        except ValueError as error:
            raise DecoderEnded(f"its answer makes no sense: {error}"[:200]) from error

    def _read(self, size: int, deadline: float) -> bytearray:
        data = bytearray(size)
        left = memoryview(data)
        while left:
            _wait_for(self._replies.fileno(), select.POLLIN, deadline)
            count = os.readv(self._replies.fileno(), [left])
            if count == 0:
                raise DecoderEnded(self._ending())
            left = left[count:]
        return data

    def _ending(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_SECONDS)
        return self._status()

    def _status(self) -> str:
        status = self._process.returncode
        if status is None:
            return "it closed its pipe"
        if status < 0:
            return f"signal {signal.Signals(-status).name}"
        return f"exit status {status} ({self._printed().splitlines()[-1][:200]})"

    def _printed(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read()[-2000:].decode("utf-8", "replace").strip() or "nothing printed"


def _wait_for(descriptor: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise DecoderOverran


def _environment() -> dict[str, str]:
    """Returns the variables that a child needs to import its modules, with one thread each, as there is a child per core.

    Nothing but the project's root is on its path: a folder inside the project would hide standard modules, as
    ``tasks/collections`` does ``collections``.
    """
    root = str(Path(__file__).parents[2])
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return inherited | {"PYTHONPATH": root, "PYTHONFAULTHANDLER": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _checked(reply: dict[str, Any], body: bytearray, plan: CropPlan | None) -> Decoded:
    """Returns the reply as a record. A child that was taken over can lie about its image, and do nothing more."""
    facts = None if reply["facts"] is None else DecodedFacts(**reply["facts"])
    if "reason" in reply:
        return Decoded(facts, None, ExclusionReason(reply["reason"]), str(reply["detail"]))
    if facts is None:
        raise ValueError(f"pixels of shape {reply['shape']} without facts")
    pixels = np.frombuffer(body, np.uint8)
    if plan is None:
        height, width, _ = reply["shape"]
        return Decoded(facts, None, image=DecodedImage(**asdict(facts), pixels=pixels.reshape(height, width, 3)))
    crops, *_ = reply["shape"]
    if not 1 <= crops <= plan.most:
        raise ValueError(f"{crops} crops")
    return Decoded(facts, pixels.reshape(crops, 3, plan.size, plan.size))
