"""What has been seen of a job's workers, from the outcomes of asking them; and the evidence that it makes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from torchctl.diagnosis.evidence import Evidence, Kept, Place, no_stacks
from torchctl.errors import NotAskedError, StoppedError
from torchctl.flightrec.decoding.raw import RawDump
from torchctl.flightrec.table.gather import processors
from torchctl.flightrec.table.loading import load_raw
from torchctl.flightrec.table.trace import Trace
from torchctl.manifest import GENERIC_TRACE, STACKS, TRACE, Answer, Entry
from torchctl.protocol import GENERIC_RECORDER, socketnames
from torchctl.stacks.reader import StackReader
from torchctl.stacks.stack import Stacks
from torchctl.workers.ask.outcome import Outcome
from torchctl.workers.ask.reply import Reply
from torchctl.workers.causes import has_ended, is_late, pid_of, running_listener
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.questions.look import Sight
from torchctl.workers.rollcall import rank_of

_DUMPS_PER_PROCESS = 16  # digests; a decoding process takes 30 ms to start


@dataclass(frozen=True, slots=True)
class LateStacks:
    """The stacks of a worker that gave nothing else in time.

    Attributes:
        answered_at: wall-clock seconds.
        outside: why they were read from outside; None if the worker sent them itself.
    """

    endpoint: Endpoint
    body: bytes
    answered_at: float
    place: Place
    outside: str | None = None


@dataclass(slots=True)
class Seen:
    """What has been seen of a job's workers; dictionaries by rank.

    Attributes:
        slow: who gave no answer in time, and may still do; with the rank where it is known.
        late: of them, who has given stacks.
    """

    endpoints: dict[int, Endpoint] = field(default_factory=dict)
    sights: dict[int, Sight] = field(default_factory=dict)
    moved: set[int] = field(default_factory=set)
    failed: dict[int, str] = field(default_factory=dict)
    silent: dict[int, str] = field(default_factory=dict)  # endpoints of those that failed
    slow: dict[Endpoint, int | None] = field(default_factory=dict)
    late: dict[int, LateStacks] = field(default_factory=dict)
    left: set[int] = field(default_factory=set)
    stacks: dict[int, Reply] = field(default_factory=dict)
    no_stacks: dict[int, str] = field(default_factory=dict)
    lost: dict[int, Place] = field(default_factory=dict)  # where those that failed are, as far as it is known
    world_size: int | None = None
    unasked: set[int] = field(default_factory=set)
    interrupted: bool = False


def seen_of(first: list[Outcome[Sight]], second: list[Outcome[Sight]]) -> Seen:
    """Return what two looks have given."""
    before = {str(one.endpoint): one.value for one in first if one.value is not None}
    alive = {sight.rank for sight in before.values()}
    size = max((sight.info.world_size or 0 for sight in before.values()), default=0) or None
    seen = Seen(world_size=size)
    for one in second:
        first_sight = before.get(str(one.endpoint))
        rank = first_sight.rank if first_sight is not None else rank_of(one)
        if one.value is None or rank is None:
            continue
        seen.endpoints[rank], seen.sights[rank] = one.endpoint, one.value
        if first_sight is not None and one.value.moving != first_sight.moving:
            seen.moved.add(rank)
    for one in (*first, *second):
        answered = before.get(str(one.endpoint))
        rank = answered.rank if answered is not None else rank_of(one)
        if is_late(one.error) and rank not in seen.sights:
            seen.slow[one.endpoint] = rank
        if one.error is None or rank is None or rank in seen.sights or (answered is None and rank in alive):
            continue
        if size is not None and rank >= size:
            continue  # a leftover of a larger job
        if isinstance(one.error, StoppedError | NotAskedError):
            seen.unasked.add(rank)
            continue
        seen.lost.setdefault(rank, _place_of(one))
        seen.failed.setdefault(rank, one.error.detail)  # a relay asks its whole host again: the same by other words
        seen.silent.setdefault(rank, str(one.endpoint))
        if has_ended(one.endpoint, one.error):
            seen.left.add(rank)
    return seen


def _place_of(one: Outcome[Sight]) -> Place:
    """Return where a worker is that gave nothing: by its sentinel's answer, the kernel's word, or its socket's name."""
    endpoint, pid = one.endpoint, one.identity.pid
    if endpoint.node:
        name = socketnames.parse(endpoint.path)
        return Place(endpoint.node, pid or (name.pid if name.rank is not None else None))
    pid = pid or endpoint.pid or pid_of(endpoint)
    return Place(endpoint.host or os.uname().nodename, pid)


def add_stacks(seen: Seen, outcomes: Iterable[Outcome[Reply]]) -> None:
    """Add the stacks that came; a slow worker has answered with them."""
    ranks = {endpoint: rank for rank, endpoint in seen.endpoints.items()}
    for one in outcomes:
        rank = ranks.get(one.endpoint)
        if one.value is None:
            if rank is not None and one.error is not None and not isinstance(one.error, NotAskedError):
                seen.no_stacks[rank] = one.error.detail
        elif rank is not None:
            seen.stacks[rank] = one.value
        elif one.endpoint in seen.slow and one.identity.degraded is None:
            reply = one.value
            late = LateStacks(one.endpoint, reply.body, reply.answered_at, Place(None, reply.pid))
            add_late_stacks(seen, reply.rank, late)


def add_late_stacks(seen: Seen, rank: int | None, stacks: LateStacks) -> None:
    """Take the stacks of a worker that has given nothing else; of one whose rank nothing says, they say nothing."""
    rank = seen.slow[stacks.endpoint] if rank is None else rank
    if rank is None or rank in seen.sights:
        return
    del seen.slow[stacks.endpoint]
    seen.failed.pop(rank, None)
    seen.late[rank] = stacks


def evidence_of(seen: Seen) -> Evidence:
    stacks: dict[int, Stacks] = {}
    places: dict[int, Place] = {}
    reader = StackReader()
    unread = [no_stacks(str(seen.endpoints[rank]), rank, reason) for rank, reason in seen.no_stacks.items()]
    for rank, sight in sorted(seen.sights.items()):
        places[rank] = Place(sight.info.host, sight.info.pid)
    places.update({rank: late.place for rank, late in seen.late.items()})
    for rank, place in seen.lost.items():
        if rank in seen.failed and place.host is not None:
            places.setdefault(rank, place)
    given = {rank: (seen.endpoints[rank], reply.body) for rank, reply in seen.stacks.items()}
    for rank, (endpoint, body) in (given | {rank: (one.endpoint, one.body) for rank, one in seen.late.items()}).items():
        try:
            stacks[rank] = reader.read(body)
        except ValueError as error:
            unread.append(no_stacks(str(endpoint), rank, str(error)))
    return Evidence(
        _table(seen),
        stacks,
        seen.failed,
        places,
        seen.world_size,
        moved=frozenset(seen.moved),
        live=True,
        silent=running(seen),
        left=frozenset(seen.left),
        kept=_kept(seen),
        unread=unread,
        interrupted=seen.interrupted,
        unasked=frozenset(seen.unasked),
    )


def running(seen: Seen) -> frozenset[int]:
    """Return the ranks that gave nothing in time although their processes run on this host."""
    return frozenset(
        rank
        for one, rank in seen.slow.items()
        if rank is not None and rank in seen.failed and not one.node and running_listener(one) is not None
    )


def _table(seen: Seen) -> Trace:
    dumps = [
        RawDump(str(seen.endpoints[rank]), rank, trace.body, answered_ns=trace.answered_ns)
        for rank, sight in sorted(seen.sights.items())
        for trace in sight.traces
    ]
    return load_raw(dumps, jobs=max(1, min(processors(), len(dumps) // _DUMPS_PER_PROCESS)))


def _kept(seen: Seen) -> list[Kept]:
    """Return what each worker gave, as `torchctl collect` would have entered it, and why others gave nothing."""
    found = []
    for rank, sight in sorted(seen.sights.items()):
        info = sight.info
        entry = Entry(str(seen.endpoints[rank]), rank, info.pid, info.host, info.job_id, seen.world_size)
        entry.start_time, entry.moved = info.start_time, rank in seen.moved
        answers = {
            # The first is the answer to a request for NCCL's recorder, whichever it is of.
            GENERIC_TRACE if number else TRACE: Answer(
                trace.body, trace.answered_ns / 1e9, trace.recorder == GENERIC_RECORDER
            )
            for number, trace in enumerate(sight.traces)
        }
        if rank in seen.stacks:
            answers[STACKS] = Answer(seen.stacks[rank].body, seen.stacks[rank].answered_at)
        elif rank in seen.no_stacks:
            entry.failures[STACKS] = seen.no_stacks[rank]
        found.append(Kept(entry, answers))
    for rank, late in sorted(seen.late.items()):
        place = late.place
        entry = Entry(
            str(late.endpoint), rank, place.pid, place.host, world_size=seen.world_size, degraded=late.outside
        )
        entry.moved = False
        found.append(Kept(entry, {STACKS: Answer(late.body, late.answered_at)}))
    silent = running(seen)
    for rank, reason in sorted(seen.failed.items()):
        failures = {TRACE: reason, STACKS: reason}
        entry = Entry(seen.silent[rank], rank, world_size=seen.world_size, failures=failures)
        entry.left, entry.moved, entry.silent = rank in seen.left, rank in seen.moved, rank in silent
        found.append(Kept(entry, {}))
    return found
