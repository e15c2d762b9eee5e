"""Decides which faults of a store may pass, how long to wait for that, and when to give up."""

import errno
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, ParamSpec, TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    before_sleep_log,
    retry,
    retry_if_exception,
    retry_if_exception_type,
    wait_random_exponential,
)

from mdmf_core.errors import ChecksumDiffers, SourceError, SourceRefused

P = ParamSpec("P")
T = TypeVar("T")
_log = logging.getLogger(__name__)
_PASSING = (
    errno.EAGAIN, errno.EBUSY, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH,
    errno.EINTR, errno.EIO, errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH, errno.EPIPE, errno.EREMOTEIO, errno.ESTALE,
    errno.ETIMEDOUT,
)  # fmt: skip
_PASSING_CODES = (
    "BadDigest",
    "ConditionalRequestConflict",
    "RequestTimeout",
    "RequestTimeTooSkewed",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "XAmzContentSHA256Mismatch",
)
_PASSING_STATUS = (408, 429, 500, 502, 503, 504)
_CLIENTS = ("botocore", "aiobotocore", "aiohttp", "http", "urllib3")  # packages whose errors come from the network
_CLOCK = 900  # seconds by which S3 lets a client's clock differ


@dataclass(frozen=True)
class StorageLimits:
    """Says how many faults, and how much waiting for them, are borne before a shard or a request is given up."""

    tries: int = 100  # requests that may fail for one shard
    seconds: float = 300.0  # time that one shard may spend in failed requests and pauses
    small_tries: int = 8  # requests that may fail for a small file, a listing or a write
    skewed_tries: int = 3  # requests that may fail because the store's clock differs
    page_tries: int = 5  # tries for each page of a listing, within the S3 client
    rereads: int = 1  # times that a shard is read again when its checksum differs
    pause: float = 0.1  # seconds that the first pause lasts at most; the limit doubles with every fault in a row
    longest_pause: float = 20.0  # seconds
    stall: float = 30.0  # seconds without a byte after which a request is given up


LIMITS = StorageLimits()


class ShortRead(OSError):
    """A store gave fewer bytes than it was asked for, and reported no error."""


class FaultBudget:
    """Counts the faults of one shard, or of one small request, until its limits are reached."""

    def __init__(self, tries: int) -> None:
        self._tries, self._limits = tries, LIMITS
        self.faults = self._skewed = 0
        self._seconds = 0.0

    @classmethod
    def of_shard(cls) -> "FaultBudget":
        """Makes the budget of one shard."""
        return cls(LIMITS.tries)

    @classmethod
    def of_small_request(cls) -> "FaultBudget":
        """Makes the budget of a small file, a listing or a write."""
        return cls(LIMITS.small_tries)

    def call(self, url: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls ``function`` until it works, with full-jitter exponential back-off. Errors name ``url``.

        Raises:
            SourceRefused: the store says no; it is not asked again.
            ShardUnfinished: the file is another than before; the store is not asked again.
            SourceError: the budget is spent, or the fault is not one that may pass.
        """

        def attempt() -> T:
            started = time.monotonic()
            try:
                return function(*args, **kwargs)
            except Exception:
                self._seconds += time.monotonic() - started
                raise

        retrying = Retrying(
            retry=retry_if_exception(may_pass),
            wait=wait_random_exponential(multiplier=self._limits.pause, max=self._limits.longest_pause),
            stop=self._is_spent,
            before_sleep=before_sleep_log(_log, logging.INFO),
            reraise=True,
        )
        with storage_errors(url):
            try:
                return retrying(attempt)
            except Exception as error:
                if not may_pass(error):
                    raise
                raise SourceError(f"{url}: gave up after {self.faults} failed tries; last: {described(error)}") from error

    def _is_spent(self, state: RetryCallState) -> bool:
        self.faults += 1
        self._seconds += state.upcoming_sleep
        error = state.outcome.exception() if state.outcome else None
        self._skewed += error is not None and skew(error) is not None
        limits = self._limits
        return self.faults >= self._tries or self._seconds >= limits.seconds or self._skewed >= limits.skewed_tries


def with_retries(url: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a store within the limits of one small request; raises what ``FaultBudget.call`` raises."""
    return FaultBudget.of_small_request().call(url, function, *args, **kwargs)


def if_there(url: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """Calls a store as ``with_retries`` does; None if the store has no such file or folder."""

    def ask() -> T | None:
        try:
            return function(*args, **kwargs)
        except FileNotFoundError:
            return None

    return with_retries(url, ask)


# A decorator: the function is called again when the bytes that it read differ from the store's checksum.
reading_again = retry(
    retry=retry_if_exception_type(ChecksumDiffers),
    stop=lambda state: state.attempt_number > LIMITS.rereads,
    before_sleep=before_sleep_log(_log, logging.WARNING),
    reraise=True,
)


def may_pass(error: BaseException) -> bool:
    """Tells whether the request that failed so may work a little later."""
    if skew(error) is not None:
        return True
    answer = _answer(error)
    if answer:
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status in _PASSING_STATUS or answer.get("Error", {}).get("Code") in _PASSING_CODES
    if isinstance(error, (ShortRead, TimeoutError, ConnectionError)):
        return True
    if isinstance(error, OSError):
        return error.errno in _PASSING or _is_from_wire(error)
    return _is_from_wire(error)


def skew(error: BaseException) -> float | None:
    """Gives the seconds by which the store's clock is ahead if the store refuses for that reason, None otherwise.

    S3 refuses a HEAD request without naming a code; the date of its answer then tells.
    """
    answer = _answer(error)
    metadata = answer.get("ResponseMetadata", {})
    if metadata.get("HTTPStatusCode") != 403:
        return None
    try:
        ahead = (parsedate_to_datetime(metadata["HTTPHeaders"]["date"]) - datetime.now(UTC)).total_seconds()
    except (KeyError, TypeError, ValueError):
        ahead = 0.0
    return ahead if abs(ahead) > _CLOCK or answer["Error"].get("Code") == "RequestTimeTooSkewed" else None


def _answer(error: BaseException) -> dict[str, Any]:
    """Gives S3's answer as botocore parsed it, an empty one for other errors."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    return response if isinstance(response, dict) else {}


def answered(error: BaseException) -> str | None:
    """Gives the error code of S3's answer, None for other errors."""
    code: str | None = _answer(error).get("Error", {}).get("Code")
    return code


def _is_from_wire(error: BaseException) -> bool:
    """Tells whether a network client raised the error."""
    return type(error).__module__.partition(".")[0] in _CLIENTS


def described(error: BaseException | None) -> str:
    """Words an error as one line for logs and rows; a wrong clock is named."""
    ahead = skew(error) if error is not None else None
    if ahead is not None:
        return (
            f"this machine's clock differs from the store's by {abs(ahead):.0f} s, so that it refuses all requests; "
            "set the clock (NTP)"
        )
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turns whatever a store raises in the block into one clear SourceError that names the URL."""
    try:
        yield
    except FileNotFoundError as error:
        raise SourceRefused(f"{url}: not found. Check the path, the bucket name and AWS_ENDPOINT_URL") from error
    except PermissionError as error:
        if skew(error) is not None:
            raise SourceError(f"{url}: {described(error)}") from error
        raise SourceRefused(f"{url}: access denied. Check the credentials and the bucket's policy") from error
    except OSError as error:
        raise SourceError(f"{url}: {described(error)}") from error
    except Exception as error:
        if not _is_from_wire(error):
            raise
        raise SourceError(f"{url}: {described(error)}") from error
