"""What `mdmf verify` reports: a finding, and the problem of one shard."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import duckdb

from mdmf_core.errors import WarehouseError


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or worth knowing."""

    check: str
    subject: str
    detail: str
    repairable: bool
    repaired: bool = False
    note: bool = False  # not wrong, only said


@dataclass(frozen=True)
class Problem:
    """A finding with what mends it."""

    check: str
    subject: str
    detail: str
    mend: Callable[[], object] | None = None
    note: bool = False

    def settle(self, repair: bool) -> Finding:
        """Returns the finding, after the repair where one is asked for and known."""
        finding = Finding(self.check, self.subject, self.detail, self.mend is not None, note=self.note)
        if not repair or self.mend is None:
            return finding
        try:
            self.mend()
        except (WarehouseError, duckdb.Error, OSError) as error:
            return replace(finding, detail=f"{self.detail}; the repair failed: {error}")
        return replace(finding, repaired=True)
