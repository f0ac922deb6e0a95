"""Which part of a dump the operator wants to see."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_LAST = 20
MAX_ACTIVE = 50


@dataclass(frozen=True, slots=True)
class Choice:
    """Which entries are shown.

    Args:
        last: how many of the last entries; 0 means all.
        group: only entries of the process group with this name or description.
        only_active: only entries that have not finished.
        collectives: False shows only the groups.
        stacktraces: False omits the frames.
    """

    last: int = DEFAULT_LAST
    group: str | None = None
    only_active: bool = False
    collectives: bool = True
    stacktraces: bool = True
