"""What decoding in child processes costs against decoding in threads, side by side on the same images.

Run: python benchmarks/stages/decode.py FOLDER
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

from mdmf_core.images.crops import CropPlan
from mdmf_core.images.decode import ImageLimits, decode
from mdmf_core.records import ImageExcluded
from tasks.scoring.decoder_pool import DecodePool
from tasks.scoring.stage_threads import in_order

IMAGES, REPEATS, WINDOW = 600, 7, 64
PLANS = {"most bytes per image": CropPlan(224, 16), "crops pass JPEG 90": CropPlan(224, 16, 90), "one crop": CropPlan(224, 1)}
LIMITS = ImageLimits()


def in_thread(data: bytes, plan: CropPlan) -> int:
    try:
        return len(plan.cut(decode(data, LIMITS).pixels))
    except ImageExcluded:
        return 0


def in_child(data: bytes, plan: CropPlan, pool: DecodePool) -> int:
    crops = pool.decode(data, plan).crops
    return 0 if crops is None else len(crops)


def rate(threads: Executor, function: Callable[[bytes], int], files: Iterable[bytes]) -> tuple[float, int]:
    """Images per second, and crops."""
    started = time.perf_counter()
    crops = list(in_order(threads, function, files, WINDOW))
    return len(crops) / (time.perf_counter() - started), sum(crops)


def main(folder: Path) -> None:
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".jpg", ".png", ".webp"))
    files = [path.read_bytes() for path in paths[:: max(1, len(paths) // IMAGES)]]
    print(f"{len(files)} images, {sum(map(len, files)) / len(files) / 1000:.0f} kB each, {os.cpu_count()} cores")
    for workers in (1, 2):
        with ThreadPoolExecutor(workers) as threads, DecodePool(workers) as pool:
            for name, plan in PLANS.items():
                rates: tuple[list[float], list[float]] = ([], [])
                for _ in range(REPEATS):
                    first, crops = rate(threads, lambda data, plan=plan: in_thread(data, plan), files)  # type: ignore[misc]
                    second, same = rate(pool.threads, lambda data, plan=plan: in_child(data, plan, pool), files)  # type: ignore[misc]
                    if crops != same:
                        raise SystemExit(f"threads cut {crops} crops, children {same}")
                    rates[0].append(first)
                    rates[1].append(second)
                ratio = statistics.median(child / thread for thread, child in zip(*rates, strict=True))
                print(
                    f"{workers} workers, {name}: threads {statistics.median(rates[0]):.0f} images/s, "
                    f"children {statistics.median(rates[1]):.0f} images/s, ratio {ratio:.2f}"
                )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
