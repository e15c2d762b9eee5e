"""The costs of the stages of scoring are numbers that add up over threads, shards and processes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

STAGES = ("read", "decode", "backbone", "score", "write", "land")


@dataclass(frozen=True)
class Cost:
    """The cost of one stage. ``seconds`` adds up the workers that did it, side by side or not."""

    seconds: float = 0.0
    items: int = 0  # images; rows for ``land``
    bytes: int = 0

    def __add__(self, other: Self) -> "Cost":
        return Cost(self.seconds + other.seconds, self.items + other.items, self.bytes + other.bytes)

    @property
    def rate(self) -> float | None:
        """Returns the items per second of one worker; None where nothing was measured."""
        return self.items / self.seconds if self.seconds > 0 and self.items else None


@dataclass(frozen=True)
class Depth:
    """The depth of a queue is how many items waited in it, summed over the times that somebody took one."""

    total: int = 0
    looks: int = 0
    most: int = 0

    def __add__(self, other: Self) -> "Depth":
        return Depth(self.total + other.total, self.looks + other.looks, max(self.most, other.most))

    @property
    def mean(self) -> float:
        return self.total / self.looks if self.looks else 0.0


@dataclass(frozen=True)
class StageCosts:
    """The costs of some work, by stage, and the wall time that it took; ``+`` is for work that was done one after the other."""

    wall: float = 0.0  # seconds
    stages: dict[str, Cost] = field(default_factory=dict)
    queues: dict[str, Depth] = field(default_factory=dict)

    def __add__(self, other: Self) -> "StageCosts":
        return StageCosts(
            self.wall + other.wall,
            {name: self.stages.get(name, Cost()) + other.stages.get(name, Cost()) for name in self.stages | other.stages},
            {
                name: self.queues.get(name, Depth()) + other.queues.get(name, Depth())
                for name in {**self.queues, **other.queues}
            },
        )

    def busy(self, *names: str) -> float:
        """Returns how many workers of these stages were at work in the mean; 1 = one all the time, a device's most."""
        return sum(self.stages.get(name, Cost()).seconds for name in names) / self.wall if self.wall > 0 else 0.0

    def shares(self, decoders: int) -> dict[str, float]:
        """Returns the share of the wall time that each stage was at work; decoding in so many children, others in a thread."""
        workers = {"decode": decoders}
        return {name: self.busy(name) / workers.get(name, 1) for name in self.stages if name != "land"}

    def limit(self, decoders: int) -> str | None:
        """Names the stage that was at work most of the time, for which the others wait; None where nothing was measured."""
        shares = self.shares(decoders)
        return max(shares, key=lambda name: shares[name]) if shares and self.wall > 0 else None

    def sentence(self, decoders: int) -> str:
        """States rates, how busy the device was, and the stage for which the others wait, for a log line.

        >>> StageCosts(10, {"read": Cost(1, 500, 10**8), "decode": Cost(4, 500), "backbone": Cost(9, 500)}).sentence(2)
        'read 100.0 MB/s, decode 125 images/s a core, backbone 56 images/s and busy 90 %; limit: backbone at 90 %'
        """
        read, decode = self.megabytes_per_second, self.stages.get("decode", Cost()).rate
        backbone, limit = self.stages.get("backbone", Cost()).rate, self.limit(decoders)
        rates = [
            text
            for rate, text in (
                (read, f"read {read or 0:.1f} MB/s"),
                (decode, f"decode {decode or 0:.0f} images/s a core"),
                (backbone, f"backbone {backbone or 0:.0f} images/s and busy {100 * self.busy('backbone'):.0f} %"),
            )
            if rate is not None
        ]
        if rates and self.queues:
            rates.append("waiting " + ", ".join(f"{d.mean:.1f} for {name}" for name, d in sorted(self.queues.items())))
        if limit is None:
            return "nothing was measured"
        return f"{', '.join(rates)}; limit: {limit} at {100 * self.shares(decoders)[limit]:.0f} %"

    @property
    def megabytes_per_second(self) -> float | None:
        """Returns the read rate of one reader, in MB/s; None where nothing was read."""
        read = self.stages.get("read", Cost())
        return read.bytes / read.seconds / 1e6 if read.seconds > 0 and read.bytes else None

    def record(self) -> dict[str, Any]:
        """Returns the costs as a JSON-like record, which ``from_record`` reads."""
        return {
            "wall": round(self.wall, 6),
            "stages": {name: [round(c.seconds, 6), c.items, c.bytes] for name, c in sorted(self.stages.items())},
            "queues": {name: [d.total, d.looks, d.most] for name, d in sorted(self.queues.items())},
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "StageCosts":
        """Rebuilds costs from their record; raises KeyError or TypeError when it is none."""
        return cls(
            record["wall"],
            {name: Cost(*values) for name, values in record["stages"].items()},
            {name: Depth(*values) for name, values in record["queues"].items()},
        )
