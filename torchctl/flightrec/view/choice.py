"""Which part of a dump the operator wants to see."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_LAST = 20
MAX_ACTIVE = 50


@dataclass(frozen=True, slots=True)
class Choice:
    """Which entries are shown.

    Args:
        last: that many of the last; 0 is all.
        group: only entries of the process group with this name or description.
        only_active: none that have come to an end.
        collectives: False shows the groups alone.
        stacktraces: False leaves the frames out.
    """

    last: int = DEFAULT_LAST
    group: str | None = None
    only_active: bool = False
    collectives: bool = True
    stacktraces: bool = True
