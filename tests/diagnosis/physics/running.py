"""Runs a plan: when every operation was launched, came to the head of its stream, and ended.

How this works. Each rank's thread is run as far as it comes; what it waits for wakes it. A collective ends a while
after its last member's stream has come to it, a send with its recv, or before it where the data fits into the buffers
on the way. Nothing is stepped through time: moments follow from one another, so one run gives a job's state at every
moment of its life.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from tests.diagnosis.physics.moments import NEVER, Moment, after, known
from tests.diagnosis.physics.program import (
    UNEVEN,
    Collective,
    Host,
    Instruction,
    Join,
    Kernel,
    Line,
    Plan,
    Sizes,
    Stop,
    Sync,
    Transfers,
    sizes_of,
)

_LAUNCH_NS = 20_000
_TRANSFER_NS = 150_000
_BUFFERED = 4  # sends to one peer that are on the way before their recv has come
_SMALL = 1 << 14  # elements with which the giving side of a rooted operation need not wait for the taking one


@dataclass(slots=True)
class Launched:
    """What the recorder of one rank knows of a launch.

    Attributes:
        name: as the recorder writes it, without the backend.
        seq: of the point-to-point counter for sends, receives and the closing row of a batch of them.
        ready: the stream has come to it.
        end: it has ended; None of a member of a batch, whose closing row tells.
    """

    group: str
    name: str
    seq: int
    created_ns: int
    inputs: Sizes
    outputs: Sizes
    dtype: str
    line: Line
    is_p2p: bool
    ready: Moment
    end: Moment | None


@dataclass(slots=True)
class Life:
    """A job's life: the launches of each rank, and when each thread ended or stopped, None if it did not."""

    plan: Plan
    launched: list[list[Launched]]
    ended_ns: list[int | None]
    stopped_ns: list[int | None]

    @property
    def last_ns(self) -> int:
        """When the last thing that happens has happened."""
        last = [at for at in (*self.ended_ns, *self.stopped_ns) if at is not None]
        for rows in self.launched:
            for made in rows[-60:]:
                last += [made.created_ns, *(one.at for one in (made.ready, made.end) if one and one.at is not None)]
        return max(last, default=0)

    def held(self) -> list[int]:
        """Return the ranks with an operation that never ends."""
        return [
            rank
            for rank, rows in enumerate(self.launched)
            if any(made.end is not None and made.end.at is None for made in rows)
        ]


def run(plan: Plan, random: Random) -> Life:
    """Run all ranks as far as they come."""
    job = _Job(plan)
    ranks = [_Rank(job, rank, random.randint(0, 30_000_000)) for rank in range(plan.world)]
    job.runnable.extend(ranks)
    while job.runnable:
        job.runnable.popleft().go()
    return Life(
        plan, [rank.rows for rank in ranks], [rank.ended_ns for rank in ranks], [rank.stopped_ns for rank in ranks]
    )


class _Meeting:
    """One collective: when each member's stream has come to it."""

    __slots__ = ("broken", "ready", "said", "together")

    def __init__(self, members: tuple[int, ...]) -> None:
        self.ready = {rank: Moment(0, 1) for rank in members}
        self.said: set[tuple[str, int, str, int]] = set()
        self.together: Moment | None = None
        self.broken = False


class _Job:
    """What ranks share: collectives by group and sequence id, transfers by group and ends."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.runnable: deque[_Rank] = deque()
        self._meetings: dict[tuple[str, int], _Meeting] = {}
        self._coming: dict[tuple[str, int, int, bool, int], Moment] = defaultdict(lambda: Moment(0, 1))
        self._counts: dict[tuple[str, int, int, bool], int] = defaultdict(int)
        self._elements: dict[tuple[str, int, int, int], int] = {}

    def meet(self, made: Collective, seq: int, rank: int, ready: Moment) -> Moment:
        """Return when a member's part in a collective ends."""
        members = self.plan.groups[made.group]
        meeting = self._meetings.get((made.group, seq))
        if meeting is None:
            meeting = self._meetings[made.group, seq] = _Meeting(members)
        meeting.said.add((made.op, made.elements, made.dtype, made.root))
        operations = {op for op, *_ in meeting.said}
        differ = len(meeting.said) > 1 and not (self.plan.silent_mismatch and len(operations) == 1)
        meeting.broken |= differ or made.lasting is None
        if not meeting.broken:
            ready.then(meeting.ready[rank].come)
        lasting = made.lasting or 0
        needed = _needed(made, rank, members)
        if needed is not None:
            return after(lasting, *(meeting.ready[one] for one in needed))
        if meeting.together is None:
            meeting.together = after(lasting, *meeting.ready.values())
        return meeting.together

    def transfer(self, made: Transfers, rank: int, ready: Moment) -> Iterator[Moment]:
        """Yield when each end of a rank's sends and receives ends."""
        for end in made.ends:
            sender, receiver = (rank, end.peer) if end.is_send else (end.peer, rank)
            place = self._counts[made.group, sender, receiver, end.is_send]
            self._counts[made.group, sender, receiver, end.is_send] += 1
            if self._elements.setdefault((made.group, sender, receiver, place), end.elements) != end.elements:
                yield NEVER
                continue
            ready.then(self._coming[made.group, sender, receiver, end.is_send, place].come)
            other = self._coming[made.group, sender, receiver, not end.is_send, place]
            if end.is_send and end.elements <= self.plan.eager:
                before = place - _BUFFERED
                other = self._coming[made.group, sender, receiver, False, before] if before >= 0 else ready
            yield after(_TRANSFER_NS, ready, other)


def _needed(made: Collective, rank: int, members: tuple[int, ...]) -> list[int] | None:
    """Return the members whose coming ends a member's part in a small operation with a root; None for all."""
    root = members[made.root]
    if made.elements > _SMALL:
        return None
    if made.op in ("broadcast", "scatter"):
        return [rank] if rank == root else [root, rank]
    if made.op in ("reduce", "gather"):
        return None if rank == root else [rank]
    return None


class _Rank:
    """One rank's thread and its device's streams."""

    def __init__(self, job: _Job, rank: int, now: int) -> None:
        self.job, self.rank, self.now = job, rank, now
        self.program = job.plan.programs[rank]
        self.place = 0
        self.rows: list[Launched] = []
        self.ended_ns: int | None = None
        self.stopped_ns: int | None = None
        self._compute = known(now)
        self._streams: dict[object, Moment] = {}
        self._counts: dict[tuple[str, bool], int] = defaultdict(int)
        self._ahead: deque[Moment] = deque()

    def go(self) -> None:
        """Run on until the thread waits for something that is not known yet, or ends."""
        while self.place < len(self.program):
            made = self.program[self.place]
            if isinstance(made, Stop):
                self.stopped_ns = self.now
                return
            awaited = self._compute if isinstance(made, Sync) else self._room()
            if awaited is not None:
                if awaited.at is None:
                    awaited.then(self._wake)
                    return
                self.now = max(self.now, awaited.at)
                if not isinstance(made, Sync):
                    self._ahead.popleft()
            self.place += 1
            self._do(made)
        self.ended_ns = self.now

    def _wake(self, at: int) -> None:
        self.now = max(self.now, at)
        self.job.runnable.append(self)

    def _room(self) -> Moment | None:
        """Return what must end before another launch has room in the queue."""
        return self._ahead[0] if len(self._ahead) >= self.job.plan.queue else None

    def _do(self, made: Instruction) -> None:
        if isinstance(made, Host):
            self.now += made.ns
        elif isinstance(made, Kernel):
            self.now += _LAUNCH_NS // 4
            self._compute = NEVER if made.ns is None else after(made.ns, self._compute, known(self.now))
            self._ahead.append(self._compute)
        elif isinstance(made, Join):
            self._compute = after(0, self._compute, *self._streams.values())
        elif isinstance(made, Collective):
            self._launch(made)
        elif isinstance(made, Transfers):
            self._launch_transfers(made)

    def _launch(self, made: Collective) -> None:
        self.now += _LAUNCH_NS
        members = self.job.plan.groups[made.group]
        seq = self._next(made.group, False)
        ready = self._ready(made.group)
        end = self.job.meet(made, seq, self.rank, ready)
        inputs, outputs = sizes_of(made, members, members.index(self.rank))
        for at in range(len(members) if made.op == UNEVEN else 0):
            sizes = ((made.elements + 5 * at,),)
            self._record(made, "_broadcast_oop", seq, (sizes, sizes), False, ready, None)
        self._record(made, made.op, seq, (inputs, outputs), False, ready, end)
        self._enqueued(made.group, end, made.wait)

    def _launch_transfers(self, made: Transfers) -> None:
        self.now += _LAUNCH_NS
        members = self.job.plan.groups[made.group]
        me = members.index(self.rank)
        seq = self._next(made.group, True)
        stream: object = made.group
        if not made.batched:  # a communicator of its own for each pair
            stream = (made.group, *sorted((self.rank, made.ends[0].peer)))
        ready = self._ready(stream)
        end = after(0, *self.job.transfer(made, self.rank, ready))
        for one in made.ends:
            arrow = "->" if one.is_send else "<-"
            name = f"{'send' if one.is_send else 'recv'} {me}{arrow}{members.index(one.peer)}"
            sizes = ((one.elements,),)
            self._record(made, name, seq, (sizes, sizes), True, ready, None if made.batched else end)
        if made.batched:
            self._record(made, "coalesced", seq, ((), ()), True, ready, end)
        self._enqueued(stream, end, made.wait)

    def _next(self, group: str, is_p2p: bool) -> int:
        self._counts[group, is_p2p] += 1
        return self._counts[group, is_p2p]

    def _ready(self, stream: object) -> Moment:
        """Return when a stream comes to what is launched now: after its own work and the compute stream's."""
        before = self._streams.get(stream)
        launched = known(self.now)
        return after(0, launched, self._compute) if before is None else after(0, launched, self._compute, before)

    def _record(
        self,
        made: Collective | Transfers,
        name: str,
        seq: int,
        sizes: tuple[Sizes, Sizes],
        is_p2p: bool,
        ready: Moment,
        end: Moment | None,
    ) -> None:
        self.rows.append(Launched(made.group, name, seq, self.now, *sizes, made.dtype, made.line, is_p2p, ready, end))

    def _enqueued(self, stream: object, end: Moment, wait: bool) -> None:
        self._streams[stream] = end
        self._ahead.append(end)
        if wait:
            self._compute = after(0, self._compute, end)
