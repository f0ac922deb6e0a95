"""Choose what to show of a dump: which rows, how old, and where in the user's code.

Ages in a file count back from its newest event, because a dump does not say when it was taken, and the file's
time is that of its last copy. Both are shown, so the reader can add them up. Ages from a live worker count back
from the moment it answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torchctl.flightrec.decoding.dump import Dump, Entry, Frame
from torchctl.flightrec.table.judge import Stage, judge
from torchctl.flightrec.view.choice import MAX_ACTIVE, Choice
from torchctl.flightrec.view.summary import GroupSummary, group_names, summarise_groups
from torchctl.flightrec.view.userframe import user_frame


@dataclass(frozen=True, slots=True)
class Row:
    """One entry as shown; `age_s` is None if its creation time is not known or is after the reference."""

    entry: Entry
    progress: Stage
    age_s: float | None
    user_frame: Frame | None


@dataclass(frozen=True, slots=True)
class TraceView:
    """One rank's dump as shown.

    It does not keep the dump, so that memory holds only what is shown, even for a thousand ranks.

    Args:
        source, version, comm_lib_version, unknown_keys: as in `Dump`.
        rank: global rank, None if it is not known.
        group_names: names that select its groups; () if the operator selected no group.
        reference_ns: what ages count back from, wall-clock nanoseconds; None if the dump has no times.
        reference: what that moment is, "newest_event" or "answer".
        written_ns: when the file was last written; None for a live worker.
        total, active: entries in the dump, and how many of them have not finished.
        asked: entries that match the choice's group and only_active; `left_out` of them have no row.
    """

    source: str
    version: str
    comm_lib_version: str
    unknown_keys: tuple[str, ...]
    rank: int | None
    group_names: tuple[str, ...]
    groups: tuple[GroupSummary, ...]
    rows: tuple[Row, ...]
    reference_ns: int | None
    reference: str
    written_ns: int | None
    total: int
    active: int
    asked: int
    choice: Choice

    @property
    def left_out(self) -> int:
        return self.asked - len(self.rows)


def view_of(
    dump: Dump,
    rank: int | None,
    choice: Choice,
    *,
    answered_ns: int | None = None,
    written_ns: int | None = None,
) -> TraceView:
    """Return what to show of a dump.

    Args:
        answered_ns: when a live worker sent it, wall-clock nanoseconds; None for a file.
        written_ns: when the file was last written.
    """
    progress = judge(dump.entries)
    groups = summarise_groups(dump, progress)
    if choice.group is not None:
        groups = tuple(group for group in groups if choice.group in (group.name, group.desc))
    asked, shown = select_rows(dump.entries, progress, choice)
    reference_ns = answered_ns if answered_ns is not None else newest_event_ns(dump.entries)
    rows = []
    for at in shown if choice.collectives else ():
        entry = dump.entries[at]
        where = user_frame(entry.frames) if choice.stacktraces else None
        rows.append(Row(entry, progress[at], _age_s(entry, reference_ns), where))
    return TraceView(
        source=dump.source,
        version=dump.version,
        comm_lib_version=dump.comm_lib_version,
        unknown_keys=dump.unknown_keys,
        rank=rank,
        group_names=group_names(dump) if choice.group is not None else (),
        groups=groups,
        rows=tuple(rows),
        reference_ns=reference_ns,
        reference="newest_event" if answered_ns is None else "answer",
        written_ns=written_ns,
        total=len(dump.entries),
        active=sum(reached.active for reached in progress),
        asked=len(asked),
        choice=choice,
    )


def select_rows(entries: Iterable[Entry], progress: Sequence[Stage], choice: Choice) -> tuple[list[int], list[int]]:
    """Return the positions of the matching entries, and of those to show, both in the dump's order.

    It shows the last `choice.last` entries and, because hung operations matter most, the 50 oldest active ones.
    """
    asked = [
        at
        for at, (entry, reached) in enumerate(zip(entries, progress, strict=True))
        if (choice.group is None or choice.group in (entry.group, entry.group_desc))
        and (reached.active or not choice.only_active)
    ]
    if choice.last == 0:
        return asked, asked
    oldest_active = [at for at in asked if progress[at].active][:MAX_ACTIVE]
    return asked, sorted({*oldest_active, *asked[-choice.last :]})


def newest_event_ns(entries: Iterable[Entry]) -> int | None:
    """Return the latest time in any entry, wall-clock nanoseconds."""
    times = (
        time
        for entry in entries
        for time in (
            entry.time_created_ns,
            entry.time_discovered_started_ns,
            entry.time_discovered_completed_ns,
        )
        if time is not None
    )
    return max(times, default=None)


def _age_s(entry: Entry, reference_ns: int | None) -> float | None:
    if reference_ns is None or entry.time_created_ns is None or entry.time_created_ns > reference_ns:
        return None
    return (reference_ns - entry.time_created_ns) / 1e9
