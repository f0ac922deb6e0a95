"""Per process group: the last operation enqueued, started and completed on one rank.

Entries take precedence, because they have sequence ids on every backend. `pg_status`, the process's own counters,
fills in what the ring no longer holds; gloo's counters count `op_id`, so they are never mixed with sequence ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torchctl.flightrec.decoding.dump import Dump, Entry, ReportedStatus
from torchctl.flightrec.table.judge import Stage, tells_start

NO_DESCRIPTION = "undefined"  # what torch writes for a group without a description
# Not COMPLETED_LATE: an abort makes what was stuck look completed.
_DONE = (Stage.COMPLETED, Stage.RETIRED)


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """One rank's progress in one process group.

    Args:
        pg_id: the group's number, local to this rank; None if the group was configured but never used.
        ranks: global ranks of its members, None if the dump does not have them.
        enqueued, started, completed: the last of each, None if there is none or it is not known. Many recorders never
            record a start: then `started` is None even while operations run.
        counted_by: "seq_id", or "op_id" if only gloo's own counters are available.
        entries, active: how many entries the dump has, and how many of them have not finished.
        reported: the process's own counters.
    """

    pg_id: int | None
    name: str
    desc: str
    backend: str
    ranks: tuple[int, ...] | None
    enqueued: int | None
    started: int | None
    completed: int | None
    counted_by: str
    entries: int
    active: int
    reported: ReportedStatus | None


def summarise_groups(dump: Dump, progress: Sequence[Stage]) -> tuple[GroupSummary, ...]:
    """Return one summary per process group in a dump, in the order of their local numbers.

    Args:
        progress: the result of `judge` for the dump's entries.
    """
    # A second init_process_group reuses the name with a new number, so use both to distinguish groups.
    members: dict[tuple[int | None, str], list[tuple[Entry, Stage]]] = {}
    for entry, reached in zip(dump.entries, progress, strict=True):
        members.setdefault((entry.pg_id, entry.group), []).append((entry, reached))
    reported = {status.pg_id: status for status in dump.reported}
    ranks = {group.name: group.ranks for group in dump.groups}
    descs = {group.name: group.desc for group in dump.groups}
    found = []
    for (pg_id, name), rows in members.items():
        status = reported.get(pg_id) if pg_id is not None else None
        found.append(_summary_of_entries(pg_id, name, rows, ranks.get(name), status))
    used_ids = {pg_id for pg_id, _ in members}
    used_names = {name for _, name in members}
    for status in dump.reported:
        if status.pg_id not in used_ids:
            found.append(_summary_of_status(status, dump))
    for name, desc in descs.items():
        # Gloo's only entry has an empty name, and says nothing about the groups in use.
        if name and name not in used_names:
            found.append(_unused(name, desc, ranks[name]))
    return tuple(sorted(found, key=lambda group: (group.pg_id is None, group.pg_id or 0, group.name)))


def _summary_of_entries(
    pg_id: int | None,
    name: str,
    rows: list[tuple[Entry, Stage]],
    ranks: tuple[int, ...] | None,
    status: ReportedStatus | None,
) -> GroupSummary:
    collectives = [(entry.collective_seq_id, entry, reached) for entry, reached in rows if not entry.is_p2p]
    backend = rows[-1][0].backend
    enqueued = _last(seq for seq, _, _ in collectives)
    completed = _last(seq for seq, _, reached in collectives if reached in _DONE)
    started = None
    if any(tells_start(entry) for entry, _ in rows):
        started = _last(seq for seq, entry, reached in collectives if tells_start(entry) or reached in _DONE)
    if status is not None and backend != "gloo":
        enqueued = _known(status.last_enqueued) if enqueued is None else enqueued
        started = _known(status.last_started) if started is None else started
        completed = _known(status.last_completed) if completed is None else completed
    return GroupSummary(
        pg_id=pg_id,
        name=name,
        desc=rows[-1][0].group_desc,
        backend=backend,
        ranks=ranks,
        enqueued=enqueued,
        started=started,
        completed=completed,
        counted_by="seq_id",
        entries=len(rows),
        active=sum(reached.active for _, reached in rows),
        reported=status,
    )


def _summary_of_status(status: ReportedStatus, dump: Dump) -> GroupSummary:
    """Return the summary of a group with no entries left in the ring: only its number and counters are known."""
    # NCCL's recorder writes the library's version; the generic one (gloo) leaves it empty.
    counted_by = "seq_id" if dump.comm_lib_version else "op_id"
    return GroupSummary(
        pg_id=status.pg_id,
        name="",
        desc="",
        backend="",
        ranks=None,
        enqueued=_known(status.last_enqueued),
        started=_known(status.last_started),
        completed=_known(status.last_completed),
        counted_by=counted_by,
        entries=0,
        active=0,
        reported=status,
    )


def _unused(name: str, desc: str, ranks: tuple[int, ...] | None) -> GroupSummary:
    return GroupSummary(None, name, desc, "", ranks, None, None, None, "seq_id", 0, 0, None)


def _last(numbers: Iterable[int | None]) -> int | None:
    return max((number for number in numbers if number is not None), default=None)


def _known(counter: int | None) -> int | None:
    """Return a counter from pg_status, or None for -1, which means none yet."""
    return counter if counter is not None and counter >= 0 else None


def group_names(dump: Dump) -> tuple[str, ...]:
    """Return the sorted names by which the operator can select a dump's groups."""
    names = {name for group in dump.groups for name in (group.name, group.desc)}
    names |= {name for entry in dump.entries for name in (entry.group, entry.group_desc)}
    return tuple(sorted(names - {"", NO_DESCRIPTION}))
