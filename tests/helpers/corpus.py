"""Files that an image decoder may meet, damaged and hostile ones among them, made from the bundled photographs.

The same files on every call. Run ``python tests/corpus.py`` for a table of what becomes of each family.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from corpus_damage import chunks, flips, spans, truncations
from corpus_kinds import animations, bombs, foreign, orientations, profiles, variants
from corpus_parts import DECODED, Entry

from mdmf_core.images.crops import CropPlan
from tasks.scoring.decoder_pipe import Decoded
from tasks.scoring.decoder_pool import DecodePool

PLAN = CropPlan(224, 4)


def corpus() -> Iterator[Entry]:
    """Gives every file of all families, with a number in its name."""
    families = (truncations, flips, spans, variants, orientations, profiles, animations, foreign, bombs, chunks)
    for number, entry in enumerate(entry for family in families for entry in family()):
        yield replace(entry, name=f"{number:05d}-{entry.name}")


def outcome(found: Decoded) -> str:
    return DECODED if found.reason is None else str(found.reason)


def decoders() -> list[int]:
    """Gives the process ids of this process's decoders."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # ended meanwhile
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"decoder_process" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return found


def peak_bytes(pid: int) -> int:
    """Gives the most memory that a process has held."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def main() -> None:
    """Prints a table family x outcome, and the worst time and memory of the decoder."""
    counts: dict[str, Counter[str]] = {}
    slowest = (0.0, "")
    with DecodePool(1) as pool:
        for entry in corpus():
            started = time.perf_counter()
            found = outcome(pool.decode(entry.data, PLAN))
            slowest = max(slowest, (time.perf_counter() - started, entry.name))
            counts.setdefault(entry.family, Counter())[found] += 1
        peak = max(peak_bytes(pid) for pid in decoders())
    names = sorted({name for family in counts.values() for name in family})
    print("| family | files |", " | ".join(names), "|")
    print("|---|---|" + "---|" * len(names))
    for family, found in counts.items():
        print(f"| {family} | {found.total()} |", " | ".join(str(found[name] or "") for name in names), "|")
    totals = sum(counts.values(), Counter())
    print(f"| all | {totals.total()} |", " | ".join(str(totals[name]) for name in names), "|")
    print(f"slowest: {slowest[1]}, {slowest[0]:.2f} s; largest memory of the decoder: {peak / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
