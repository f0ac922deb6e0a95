"""What a diagnosis has seen of a job's workers, collected from their answers, and the evidence made from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from torchctl.diagnosis.evidence import Computing, Degraded, Evidence, Kept, Place, cannot_answer, no_stacks
from torchctl.errors import NotAskedError, StoppedError
from torchctl.flightrec.decoding.raw import RawDump
from torchctl.flightrec.table.gather import processors
from torchctl.flightrec.table.loading import load_raw
from torchctl.flightrec.table.trace import Trace
from torchctl.manifest import GENERIC_TRACE, INFO, STACKS, TRACE, Answer, Entry
from torchctl.protocol import GENERIC_RECORDER
from torchctl.protocol.calls import Calls
from torchctl.protocol.identity import Identity
from torchctl.reports.entries import place_of, take_identity, take_reply
from torchctl.stacks.reader import StackReader
from torchctl.stacks.role import rank_thread
from torchctl.stacks.stack import Stacks
from torchctl.workers.ask.outcome import Outcome
from torchctl.workers.ask.reply import Reply
from torchctl.workers.causes import has_ended, is_late, still_runs
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.questions.look import Sight
from torchctl.workers.rollcall import rank_of

_P2P = {"send", "recv", "isend", "irecv", "batch_isend_irecv", "send_object_list", "recv_object_list"}
_DUMPS_PER_PROCESS = 16  # digests; a decoding process takes 30 ms to start


@dataclass(frozen=True, slots=True)
class LateStacks:
    """The stacks of a worker that sent nothing else in time.

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
class Unable:
    """What a sentinel said in place of a worker that cannot answer for itself.

    Attributes:
        sight: None if it said no more than that.
        stacks: read from outside.
    """

    endpoint: Endpoint
    identity: Identity
    sight: Sight | None = None
    stacks: Reply | None = None
    no_stacks: str = ""


@dataclass(slots=True)
class Seen:
    """What was seen of a job's workers; dictionaries are by rank.

    Attributes:
        failed: workers that sent nothing, and why; includes `unable`.
        late_why: why the workers in `late` sent nothing else.
        slow: workers that did not answer in time but still may, with the rank if known; `slow_why` says why.
        first: of those in `sights`, the look before.
        still: whose own thread slept at one place from look to look, whatever their other threads did.
        computing: of the ranks that others wait for, those that have used CPU time between the looks.
        running: those in `slow` whose processes run on this host.
        late: those in `slow` that sent stacks.
    """

    endpoints: dict[int, Endpoint] = field(default_factory=dict)
    sights: dict[int, Sight] = field(default_factory=dict)
    first: dict[int, Sight] = field(default_factory=dict)
    computing: dict[int, Computing] = field(default_factory=dict)
    still: set[int] = field(default_factory=set)
    moved: set[int] = field(default_factory=set)
    failed: dict[int, str] = field(default_factory=dict)
    silent: dict[int, str] = field(default_factory=dict)  # endpoints of `failed`
    slow: dict[Endpoint, int | None] = field(default_factory=dict)
    slow_why: dict[Endpoint, str] = field(default_factory=dict)
    late: dict[int, LateStacks] = field(default_factory=dict)
    late_why: dict[int, str] = field(default_factory=dict)
    unable: dict[int, Unable] = field(default_factory=dict)
    running: set[int] = field(default_factory=set)
    left: set[int] = field(default_factory=set)
    stacks: dict[int, Reply] = field(default_factory=dict)
    no_stacks: dict[int, str] = field(default_factory=dict)
    lost: dict[int, Place] = field(default_factory=dict)  # places of `failed`, if known
    world_size: int | None = None
    unasked: set[int] = field(default_factory=set)
    interrupted: bool = False


def has_moved(before: Sight, after: Sight) -> bool:
    """Whether a rank moved between two looks, by its recorders or by its groups' counts, which may include sends.

    If its main thread stayed in the same collective, it did not: only other threads did, such as a heartbeat's. If it
    waited for other keys of the store at the second look, it did, though no count shows that.
    """
    first, second = before.calls, after.calls
    counted = first is not None and second is not None and _sequences(first) != _sequences(second)
    if before.moving == after.moving and not counted:
        return bool(_asked(first)) and bool(_asked(second)) and _asked(first) != _asked(second)
    entered = _entered(first)
    return entered is None or entered != _entered(second)


def stands(before: Sight, after: Sight, stacks: Stacks) -> bool:
    """Whether a rank's own thread slept at one place from look to look, whatever its other threads did."""
    first, second = before.calls, after.calls
    one, other = (None if calls is None else calls.main for calls in (first, second))
    own = rank_thread(stacks)
    if one is None or other is None or own is None or not own.main:
        return False
    asleep = bool(one.wchan and other.wchan) and one.cpu_ns is not None
    return asleep and (one.frame, one.cpu_ns) == (other.frame, other.cpu_ns)


def _sequences(calls: Calls) -> list[tuple[str, int | None]]:
    return [(group.name, group.sequence) for group in calls.groups]


def _asked(calls: Calls | None) -> tuple[str, ...]:
    """Return the keys of the store that the main thread waits for; none if it waits for something else."""
    wait = None if calls is None or calls.main is None else calls.main.wait
    return wait.keys if wait is not None and wait.kind == "store" else ()


def _entered(calls: Calls | None) -> tuple[str, str, int] | None:
    """Return the collective that the main thread is in: its function, its group's name and sequence number.

    None if it is in none, or if the number cannot distinguish one call from the next: not all backends count sends.
    """
    main = None if calls is None else calls.main
    if calls is None or main is None or any(call.function in _P2P for call in main.calls):
        return None
    for call in main.calls:
        group = None if call.group is None else calls.groups[call.group]
        if group is not None and group.sequence is not None:
            return call.function, group.name, group.sequence
    return None


def seen_of(first: list[Outcome[Sight]], second: list[Outcome[Sight]]) -> Seen:
    """Return what two looks gathered."""
    before = {str(one.endpoint): one.value for one in first if one.value is not None and not one.value.degraded}
    alive = {sight.rank for sight in before.values()}
    size = max((sight.info.world_size or 0 for sight in before.values()), default=0) or None
    seen = Seen(world_size=size)
    for one in second:
        first_sight = before.get(str(one.endpoint))
        rank = first_sight.rank if first_sight is not None else rank_of(one)
        if one.value is None or one.value.degraded or rank is None:
            continue
        seen.endpoints[rank], seen.sights[rank] = one.endpoint, one.value
        if first_sight is not None:
            seen.first[rank] = first_sight
            if has_moved(first_sight, one.value):
                seen.moved.add(rank)
    for one in (*first, *second):
        answered = before.get(str(one.endpoint))
        rank = answered.rank if answered is not None else rank_of(one)
        if one.error is not None and is_late(one.error) and not one.identity.degraded and rank not in seen.sights:
            seen.slow[one.endpoint] = rank
            seen.slow_why.setdefault(one.endpoint, one.error.detail)
            if rank is not None and still_runs(one.endpoint, one.error):
                seen.running.add(rank)
        if rank is None or rank in seen.sights or (answered is None and rank in alive):
            continue
        if size is not None and rank >= size:
            continue  # a leftover of a larger job
        if one.identity.degraded is not None:
            seen.unable[rank] = Unable(one.endpoint, one.identity, one.value)
            seen.failed[rank] = cannot_answer(one.identity.degraded)
        if one.error is None:
            continue
        if isinstance(one.error, StoppedError | NotAskedError):
            seen.unasked.add(rank)
            continue
        seen.lost.setdefault(rank, place_of(one.endpoint, one.identity))
        seen.failed.setdefault(rank, one.error.detail)  # a relay asks its whole host again: same failure, other words
        seen.silent.setdefault(rank, str(one.endpoint))
        if has_ended(one.endpoint, one.error):
            seen.left.add(rank)
    return seen


def add_stacks(seen: Seen, outcomes: Iterable[Outcome[Reply]]) -> None:
    """Add the stacks that arrived; for a slow worker they count as its answer."""
    ranks = {endpoint: rank for rank, endpoint in seen.endpoints.items()}
    unable = {one.endpoint: one for one in seen.unable.values()}
    for one in outcomes:
        rank = ranks.get(one.endpoint)
        if one.endpoint in unable:
            unable[one.endpoint].stacks = one.value
            unable[one.endpoint].no_stacks = "" if one.error is None else one.error.detail
        elif one.value is None:
            if rank is not None and one.error is not None and not isinstance(one.error, NotAskedError):
                seen.no_stacks[rank] = one.error.detail
        elif rank is not None:
            seen.stacks[rank] = one.value
        elif one.endpoint in seen.slow and one.identity.degraded is None:
            reply = one.value
            late = LateStacks(one.endpoint, reply.body, reply.answered_at, Place(None, reply.pid))
            add_late_stacks(seen, reply.rank, late)


def add_late_stacks(seen: Seen, rank: int | None, stacks: LateStacks) -> None:
    """Add the stacks of a worker that sent nothing else; ignore them if its rank is unknown."""
    rank = seen.slow[stacks.endpoint] if rank is None else rank
    if rank is None or rank in seen.sights:
        return
    del seen.slow[stacks.endpoint]
    seen.failed.pop(rank, None)
    seen.late_why[rank] = seen.slow_why[stacks.endpoint]
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
    degraded: dict[int, Degraded] = {}
    for rank, one in sorted(seen.unable.items()):
        places[rank] = Place(None if one.sight is None else one.sight.info.host, one.identity.pid)
        degraded[rank] = Degraded(one.identity.degraded or "", one.identity.since, _stacks_of(one, reader))
    no_dump = {rank: sight.no_trace for rank, sight in seen.sights.items() if sight.no_trace} | seen.late_why
    given = {rank: (seen.endpoints[rank], reply.body) for rank, reply in seen.stacks.items()}
    for rank, (endpoint, body) in (given | {rank: (one.endpoint, one.body) for rank, one in seen.late.items()}).items():
        try:
            stacks[rank] = reader.read(body)
        except ValueError as error:
            unread.append(no_stacks(str(endpoint), rank, str(error)))
    seen.still = set(_still(seen, stacks))
    return Evidence(
        _table(seen),
        stacks,
        seen.failed,
        degraded,
        no_dump,
        places,
        seen.world_size,
        moved=frozenset(seen.moved),
        live=True,
        silent=frozenset(seen.running & seen.failed.keys()),
        left=frozenset(seen.left),
        computing=dict(seen.computing),
        still=frozenset(seen.still),
        kept=_kept(seen),
        unread=unread,
        interrupted=seen.interrupted,
        unasked=frozenset(seen.unasked),
    )


def _still(seen: Seen, stacks: dict[int, Stacks]) -> Iterable[int]:
    for rank, sight in seen.sights.items():
        if rank in seen.first and rank in stacks and stands(seen.first[rank], sight, stacks[rank]):
            yield rank


def _stacks_of(one: Unable, reader: StackReader) -> Stacks | None:
    try:
        return None if one.stacks is None else reader.read(one.stacks.body)
    except ValueError:
        return None  # the verdict does not need them


def _table(seen: Seen) -> Trace:
    dumps = [
        RawDump(str(seen.endpoints[rank]), rank, trace.body, answered_ns=trace.answered_ns)
        for rank, sight in sorted(seen.sights.items())
        for trace in sight.traces
    ]
    return load_raw(dumps, jobs=max(1, min(processors(), len(dumps) // _DUMPS_PER_PROCESS)))


def _kept(seen: Seen) -> list[Kept]:
    """Return what each worker sent, in the form of `torchctl collect`, and why others sent nothing."""
    found = [_of_sight(seen, rank, sight) for rank, sight in sorted(seen.sights.items())]
    found += [_of_late(seen, rank, late) for rank, late in sorted(seen.late.items())]
    for rank, reason in sorted(seen.failed.items()):
        if rank in seen.unable:
            found.append(_of_unable(seen, rank, seen.unable[rank]))
            continue
        failures = dict.fromkeys((INFO, TRACE, STACKS), reason)
        entry = Entry(seen.silent[rank], rank, world_size=seen.world_size, failures=failures)
        entry.left, entry.moved, entry.silent = rank in seen.left, rank in seen.moved, rank in seen.running
        entry.host, entry.pid = seen.lost[rank].host, seen.lost[rank].pid
        found.append(Kept(entry, {}))
    return found


def _of_sight(seen: Seen, rank: int, sight: Sight) -> Kept:
    entry = Entry(str(seen.endpoints[rank]), rank, sight.info.pid, world_size=seen.world_size)
    answers: dict[str, Answer] = {}
    if sight.reply is not None:
        answers[INFO] = take_reply(entry, INFO, sight.reply)
    # The first answers a request for NCCL's recorder, whichever recorder it is from.
    for number, trace in enumerate(sight.traces):
        only = not number and trace.recorder == GENERIC_RECORDER
        answers[GENERIC_TRACE if number else TRACE] = Answer(trace.body, trace.answered_ns / 1e9, only)
    if not sight.traces:
        entry.failures[TRACE] = sight.no_trace
    if rank in seen.stacks:
        answers[STACKS] = take_reply(entry, STACKS, seen.stacks[rank])
    elif rank in seen.no_stacks:
        entry.failures[STACKS] = seen.no_stacks[rank]
    entry.moved, entry.still = rank in seen.moved, rank in seen.still
    if rank in seen.computing:
        entry.cpu_share, entry.goes_on = seen.computing[rank].cpu_share, seen.computing[rank].goes_on
    return Kept(entry, answers)


def _of_late(seen: Seen, rank: int, late: LateStacks) -> Kept:
    entry = Entry(str(late.endpoint), rank, late.place.pid, late.place.host, world_size=seen.world_size, moved=False)
    entry.degraded, entry.silent = late.outside, late.outside is not None
    entry.failures = dict.fromkeys((INFO, TRACE), seen.late_why[rank])
    return Kept(entry, {STACKS: Answer(late.body, late.answered_at)})


def _of_unable(seen: Seen, rank: int, one: Unable) -> Kept:
    entry = Entry(str(one.endpoint), rank, world_size=seen.world_size, moved=rank in seen.moved)
    take_identity(entry, one.identity)
    answers: dict[str, Answer] = {}
    if one.sight is not None and one.sight.reply is not None:
        answers[INFO] = take_reply(entry, INFO, one.sight.reply)
    if one.stacks is not None:
        answers[STACKS] = take_reply(entry, STACKS, one.stacks)
    else:
        entry.failures[STACKS] = one.no_stacks or seen.failed[rank]
    # Even if this has changed since: the verdict is based on it.
    entry.degraded, entry.since = one.identity.degraded, one.identity.since
    entry.failures[TRACE] = seen.failed[rank]
    return Kept(entry, answers)
