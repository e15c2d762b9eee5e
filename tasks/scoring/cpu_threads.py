"""The processor is used as a device: backbones run side by side, a thread each, in memory that the process keeps."""

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
    """Makes malloc keep the memory that tensors give back, instead of asking the system for it again at every operation.

    Clearing fresh pages took 40 % of the embedded scorer's time. At most ``_KEPT_BYTES`` stay with the process. Other C
    libraries than glibc are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, _MAPPED_BYTES)


@cache
def model_threads(count: int) -> ThreadPoolExecutor:
    """The threads that run the backbone, made once a process, as CUDA graphs that torch captured are bound to a thread.

    Several threads are limited to one core each: batches that run side by side then need not synchronise after every operator.
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
