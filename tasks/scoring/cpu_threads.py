"""The processor as a device: backbones side by side, a thread each, in memory that is kept from one operation to the next."""

import ctypes
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier

import torch

# mallopt's parameters in glibc's malloc.h, and what they are set to.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT_BYTES, _MAPPED_BYTES = 256 * 2**20, 32 * 2**20  # the second is the most that glibc takes


@cache
def keep_freed_memory() -> None:
    """Has malloc keep what tensors give back, instead of asking the system for the same pages at every operation.

    Clearing fresh pages took 40 % of the embedded scorer's time. At most ``_KEPT_BYTES`` stay with the process. Other C
    libraries than glibc are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, _MAPPED_BYTES)


@cache
def model_threads(count: int) -> ThreadPoolExecutor:
    """This process's threads in which backbones run. Always the same: what a compiled one captured belongs to its thread.

    Several keep to one core each: batches side by side never wait for each other, as threads within an operation do after each.
    """
    pool = ThreadPoolExecutor(count, thread_name_prefix="model")
    if count > 1:
        elsewhere, met = torch.get_num_threads(), Barrier(count)

        def keep_to_one_core() -> None:
            torch.get_num_threads()  # a thread takes the process's number when it first asks, so that asking comes first
            torch.set_num_threads(1)
            met.wait()  # so that each of them comes by

        for started in [pool.submit(keep_to_one_core) for _ in range(count)]:
            started.result()
        torch.set_num_threads(elsewhere)  # of threads that begin later
    return pool
