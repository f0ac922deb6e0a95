"""Merges the stacks of many ranks into equivalence classes and a tree of their common frames.

How this works: threads with the same role are matched across ranks, equal stacks form a class, and the classes of a
role form a prefix tree from the outermost call inwards. A branch is a run of frames without a fork. The smallest
branch comes first: in a job that hangs, the odd rank is the one that matters. After the grouping, all work scales with
the number of classes, not ranks. Nothing recurses or copies per frame, since stacks may be deep.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from torchctl.ranks import Member, member_order
from torchctl.stacks.calls import note_of
from torchctl.stacks.role import MAIN, OWN, TRAINING, matches, rank_thread, role_of
from torchctl.stacks.stack import StackFrame, Stacks, ThreadStack

CALL = "<call>"  # file name of the extra frame that represents a call; its function is the call in words
Frames = tuple[StackFrame, ...]


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker: the name to show for it, and its threads."""

    member: Member
    stacks: Stacks
    moved: frozenset[int] | None = None  # ids of threads that moved between samples; None with one sample


@dataclass(slots=True)
class StackClass:
    """Threads of one role that are at the same place.

    Attributes:
        role: what the threads are for.
        frames: innermost first; `complete` is False if outer ones were cut off.
        members: the workers that the threads belong to, each once, in order.
        threads: the number of threads.
        moving: the members with such a thread that moved between two samples; None if there was only one sample.
    """

    role: str
    frames: Frames
    complete: bool
    members: list[Member] = field(default_factory=list)
    threads: int = 0
    moving: list[Member] | None = None


@dataclass(slots=True)
class Branch:
    """A run of frames that all `members` share, and the branches below it.

    Attributes:
        frames: outermost first; empty for stacks that end where their siblings continue.
        complete: False if these stacks' outer frames were cut off.
        members, threads, moving: as in `StackClass`.
        children: smallest first.
    """

    frames: Frames
    complete: bool
    members: list[Member]
    threads: int
    moving: list[Member] | None
    children: list[Branch] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RoleStacks:
    """All stacks of one role."""

    role: str
    members: list[Member]
    threads: int
    classes: list[StackClass]
    branches: list[Branch]


@dataclass(frozen=True, slots=True)
class Merged:
    """What the workers have in common.

    Attributes:
        roles: main first, then training, then the others by name.
        without_main: members without a main thread, because their writer omitted threads.
        hidden: the number of threads not shown, per role; torchctl's own do not count.
    """

    roles: list[RoleStacks]
    without_main: list[Member]
    hidden: dict[str, int]


def merge(workers: Iterable[Worker], *, thread: str | None = None, all_threads: bool = False) -> Merged:
    """Merge the stacks of many workers.

    Args:
        workers: all read with the same `StackReader`, so that equal stacks are one object.
        thread: show only threads with this role or name; by default the main one, or the one that trains.
        all_threads: show every role.
    """
    groups: dict[tuple[str, int, bool], StackClass] = {}
    without_main: list[Member] = []
    hidden: dict[str, int] = {}
    roles_seen: dict[tuple[str, int, bool], tuple[Frames, str]] = {}
    noted = _Noted()
    for worker in workers:
        shown = rank_thread(worker.stacks)
        if shown is None:
            without_main.append(worker.member)
        for one in worker.stacks.threads:
            key = (one.name, id(one.frames), one.main)
            if key not in roles_seen:
                roles_seen[key] = (one.frames, role_of(one))  # keeps the frames alive, so that ids stay unique
            role = TRAINING if one is shown and not one.main else roles_seen[key][1]
            if _wanted(one, role, thread, all_threads or one is shown):
                _enter(groups, worker, one, role, noted.frames(worker.stacks, one))
            elif role != OWN:
                hidden[role] = hidden.get(role, 0) + 1
    by_role: dict[str, list[StackClass]] = {}
    for one_class in groups.values():
        by_role.setdefault(one_class.role, []).append(one_class)
    roles = [_role(role, by_role[role]) for role in sorted(by_role, key=_order)]
    return Merged(roles, sorted(without_main, key=member_order), hidden)


def name_workers(claims: Sequence[tuple[int | None, str]]) -> list[Member]:
    """Return each worker's name: its rank, ``RANK@ENDPOINT`` if two claim that rank, or its endpoint if it has none."""
    count: dict[int, int] = {}
    for rank, _ in claims:
        if rank is not None:
            count[rank] = count.get(rank, 0) + 1
    return [
        endpoint if rank is None else rank if count[rank] == 1 else f"{rank}@{endpoint}" for rank, endpoint in claims
    ]


def _wanted(one: ThreadStack, role: str, pattern: str | None, shown: bool) -> bool:
    if role == OWN:
        return False
    return shown if pattern is None else matches(one, role, pattern)


class _Noted:
    """Threads' frames, plus an innermost frame for what the thread is in; equal results are one object."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, str], tuple[Frames, Frames]] = {}

    def frames(self, stacks: Stacks, thread: ThreadStack) -> Frames:
        note = note_of(stacks, thread)
        if not note:
            return thread.frames
        key = (id(thread.frames), note)
        if key not in self._kept:  # keeps the frames alive, so that ids stay unique
            self._kept[key] = (thread.frames, (StackFrame(CALL, 0, note), *thread.frames))
        return self._kept[key][1]


def _enter(
    groups: dict[tuple[str, int, bool], StackClass], worker: Worker, one: ThreadStack, role: str, frames: Frames
) -> None:
    key = (role, id(frames), one.complete)  # the classes keep the frames alive, so that ids stay unique
    found = groups.get(key)
    if found is None:
        found = groups[key] = StackClass(role, frames, one.complete)
    if not found.members or found.members[-1] != worker.member:
        found.members.append(worker.member)
    found.threads += 1
    if worker.moved is not None:
        found.moving = found.moving or []
        if one.ident in worker.moved and (not found.moving or found.moving[-1] != worker.member):
            found.moving.append(worker.member)


def _role(role: str, classes: list[StackClass]) -> RoleStacks:
    for one in classes:
        one.members.sort(key=member_order)
        if one.moving:
            one.moving.sort(key=member_order)
    classes.sort(key=_size)
    return RoleStacks(
        role, _union(one.members for one in classes), sum(one.threads for one in classes), classes, _tree(classes)
    )


def _order(role: str) -> tuple[bool, bool, str]:
    return role != MAIN, role != TRAINING, role


def _size(one: StackClass | Branch) -> tuple[int, int, tuple[bool, int, str]]:
    """Return a sort key: smallest first, then by the first member."""
    return len(one.members), one.threads, member_order(one.members[0])


def _union(lists: Iterable[list[Member]]) -> list[Member]:
    found = list(lists)
    if len(found) == 1:
        return list(found[0])
    return sorted({member for members in found for member in members}, key=member_order)


def _tree(classes: Sequence[StackClass]) -> list[Branch]:
    """Return the branches at the root; stacks whose outer frames were cut off get their own."""
    roots: list[Branch] = []
    todo: list[tuple[list[StackClass], int, list[Branch]]] = []
    for complete in (True, False):
        todo.append(([one for one in classes if one.complete is complete], 0, roots))
    while todo:
        group, depth, siblings = todo.pop()
        parts: dict[StackFrame | None, list[StackClass]] = {}
        for one in group:
            size = len(one.frames)
            parts.setdefault(one.frames[size - 1 - depth] if depth < size else None, []).append(one)
        for frame, part in parts.items():
            end = depth if frame is None else _shared_depth(part, depth + 1)
            branch = _branch(part, depth, end)
            siblings.append(branch)
            if len(part) > 1 and frame is not None:
                todo.append((part, end, branch.children))
    _sort(roots)
    return roots


def _shared_depth(part: list[StackClass], depth: int) -> int:
    """Return how many outermost frames all stacks of a group share, given that they share `depth`."""
    first = part[0].frames
    end = min(len(one.frames) for one in part)
    while depth < end and all(_same(one.frames[-1 - depth], first[-1 - depth]) for one in part):
        depth += 1
    return depth


def _same(one: StackFrame, other: StackFrame) -> bool:
    return one is other or one == other


def _branch(part: list[StackClass], begin: int, end: int) -> Branch:
    frames = part[0].frames
    moving: list[Member] | None = None
    if part[0].moving is not None:
        moving = _union(one.moving or [] for one in part)
    return Branch(
        tuple(frames[len(frames) - 1 - depth] for depth in range(begin, end)),
        part[0].complete,
        _union(one.members for one in part),
        sum(one.threads for one in part),
        moving,
    )


def _sort(roots: list[Branch]) -> None:
    levels = [roots]
    while levels:
        level = levels.pop()
        level.sort(key=_size)
        levels += [branch.children for branch in level if branch.children]
