"""Evidence from live workers: two looks at every rank, so that a stuck job is told from a slow one.

How this works. The first look takes the recorders' counters alone. After an interval the second one takes a digest, the
newest entries of each group, the counters again, and the Python stacks. A rank whose counters went on has moved. What
a first diagnosis finds is then looked at closely: whole traces of the ranks it is about, which tell what came before,
and frames, which cost a worker a second the first time, of the few that it names. A rank that goes on meanwhile has
moved too, and keeps its digest: evidence of two moments would accuse somebody.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torchctl.diagnosis.diagnose import diagnose
from torchctl.diagnosis.evidence import Evidence, Kept, Place, no_stacks
from torchctl.diagnosis.model import Diagnosis
from torchctl.errors import NotAskedError, NoWorkersError, StoppedError, TorchctlError
from torchctl.flightrec.decoding.raw import RawDump
from torchctl.flightrec.table.gather import processors
from torchctl.flightrec.table.loading import load_raw
from torchctl.flightrec.table.trace import Trace
from torchctl.manifest import GENERIC_TRACE, STACKS, TRACE, Answer, Entry
from torchctl.protocol import GENERIC_RECORDER
from torchctl.stacks.reader import StackReader
from torchctl.stacks.stack import Stacks
from torchctl.workers.ask.outcome import Outcome, is_stopped
from torchctl.workers.ask.reply import Reply
from torchctl.workers.causes import has_ended
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.questions.basic import call_question
from torchctl.workers.questions.look import Sight, sight_question
from torchctl.workers.roll import Roll, find_workers
from torchctl.workers.rollcall import rank_of
from torchctl.workers.survey import survey
from torchctl.workers.targets import Targets

MAX_FRAMES_FROM = 4  # ranks whose frames are worth a second of theirs
MAX_TRACES_FROM = 32  # ranks whose history is worth 300 kB of theirs
_SHARES = (0.3, 0.4, 0.3)  # of the time allowed: counters, digests, stacks; a silent worker uses all of the first
_LEAST_S = 2.0  # for whole traces, however late it is
_DUMPS_PER_PROCESS = 16  # digests; a decoding process takes 30 ms to start
_KINDS_WITH_FRAMES = ("op_mismatch", "shape_mismatch", "dtype_mismatch", "order_cycle", "straggler")


@dataclass(slots=True)
class _Seen:
    """What has been seen of a job's workers; dictionaries by rank."""

    endpoints: dict[int, Endpoint] = field(default_factory=dict)
    sights: dict[int, Sight] = field(default_factory=dict)
    moved: set[int] = field(default_factory=set)
    failed: dict[int, str] = field(default_factory=dict)
    silent: dict[int, str] = field(default_factory=dict)  # endpoints of those that failed
    left: set[int] = field(default_factory=set)
    stacks: dict[int, Reply] = field(default_factory=dict)
    no_stacks: dict[int, str] = field(default_factory=dict)
    world_size: int | None = None
    unasked: set[int] = field(default_factory=set)
    interrupted: bool = False


def look(targets: Targets, interval_s: float, *, everything: bool = False) -> Evidence:
    """Return the evidence of all live workers that the options name.

    Args:
        targets: whom to ask, and how long the whole may take; the interval comes on top of that.
        interval_s: seconds between the two looks.
        everything: whole traces of all ranks instead of digests: what is worth keeping.

    Raises:
        NoWorkersError: nobody answers.
        TorchctlError: two workers claim one rank.
    """
    roll = find_workers(targets)
    begun = time.monotonic()
    counters, digests, stacks = (share * targets.timeout_s for share in _SHARES)
    first = survey(roll.until(begun + counters), sight_question("counters"))
    good = [one for one in first.outcomes if one.value is not None]
    if not good:
        if is_stopped(first.outcomes):
            raise KeyboardInterrupt
        raise NoWorkersError("no worker answers", hint="`torchctl ps` lists what was found")
    _refuse_doubles(good)
    second: list[Outcome[Sight]] = []
    interrupted = is_stopped(first.outcomes) or not _waited(interval_s)
    if not interrupted:
        again = roll.only([one.endpoint for one in good])
        question = sight_question("traces" if everything else "digest")
        second = survey(again.until(time.monotonic() + digests), question).outcomes
        interrupted = is_stopped(second)
    seen = _seen(first.outcomes, second)
    seen.interrupted = interrupted
    there = roll.only([one.endpoint for one in second if one.value is not None])
    if seen.endpoints and not seen.interrupted:
        _take_stacks(seen, there.until(time.monotonic() + stacks))
    evidence = _evidence(seen)
    return _closer(evidence, seen, roll, everything) if seen.endpoints and not seen.interrupted else evidence


def _waited(seconds: float) -> bool:
    """Wait; return False when the operator interrupts."""
    try:
        threading.Event().wait(seconds)
    except KeyboardInterrupt:
        return False
    return True


def watching(targets: Targets, interval_s: float, *, everything: bool = False) -> Evidence:
    """Look again and again, and return the first evidence that something is wrong; arguments and errors as `look`.

    An interrupt within a look ends it with what that look has brought, one between two looks with the last.
    """
    evidence = None
    while True:
        try:
            evidence = look(targets, interval_s)
            if not evidence.interrupted and everything and diagnose(evidence).healthy is False:
                evidence = look(targets, interval_s, everything=True)
            if evidence.interrupted or diagnose(evidence).healthy is False:
                return evidence
            threading.Event().wait(interval_s)
        except KeyboardInterrupt:
            if evidence is None:
                raise
            evidence.ended = True
            return evidence


def _refuse_doubles(outcomes: Iterable[Outcome[Sight]]) -> None:
    claims: dict[int, Endpoint] = {}
    for one in outcomes:
        rank = one.value.rank if one.value is not None else None
        if rank is None:
            continue
        if rank in claims:
            raise TorchctlError(
                f"rank {rank} is claimed by two workers, {claims[rank]} and {one.endpoint}",
                hint="two jobs run here: pick one with --job, or name its sockets with --socket",
            )
        claims[rank] = one.endpoint


def _seen(first: list[Outcome[Sight]], second: list[Outcome[Sight]]) -> _Seen:
    """Return what two looks have given."""
    before = {str(one.endpoint): one.value for one in first if one.value is not None}
    alive = {sight.rank for sight in before.values()}
    size = max((sight.info.world_size or 0 for sight in before.values()), default=0) or None
    seen = _Seen(world_size=size)
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
        if one.error is None or rank is None or (answered is None and rank in alive):
            continue
        if size is not None and rank >= size:
            continue  # a leftover of a larger job
        if isinstance(one.error, StoppedError | NotAskedError):
            seen.unasked.add(rank)
            continue
        seen.failed.setdefault(rank, one.error.detail)  # a relay asks its whole host again: the same by other words
        seen.silent.setdefault(rank, str(one.endpoint))
        if has_ended(one.endpoint, one.error):
            seen.left.add(rank)
    return seen


def _take_stacks(seen: _Seen, roll: Roll) -> None:
    """Ask for stacks: apart from the rest, since torch's own server hangs on them while the interpreter is held."""
    ranks = {str(endpoint): rank for rank, endpoint in seen.endpoints.items()}
    question = call_question("dump_traceback", {"format": "text"}, b"")
    outcomes: list[Outcome[Reply]] = survey(roll, question).outcomes
    if is_stopped(outcomes):
        seen.interrupted = True
        return  # the stacks of some prove nothing: who is in none of them would look idle
    for one in outcomes:
        rank = ranks.get(str(one.endpoint))
        if rank is None:
            continue
        if one.value is not None:
            seen.stacks[rank] = one.value
        elif one.error is not None and not isinstance(one.error, NotAskedError):
            seen.no_stacks[rank] = one.error.detail


def _evidence(seen: _Seen) -> Evidence:
    stacks: dict[int, Stacks] = {}
    places: dict[int, Place] = {}
    reader = StackReader()
    unread = [no_stacks(str(seen.endpoints[rank]), rank, reason) for rank, reason in seen.no_stacks.items()]
    for rank, sight in sorted(seen.sights.items()):
        places[rank] = Place(sight.info.host, sight.info.pid)
    for rank, reply in seen.stacks.items():
        try:
            stacks[rank] = reader.read(reply.body)
        except ValueError as error:
            unread.append(no_stacks(str(seen.endpoints[rank]), rank, str(error)))
    stop: dict[str, Any] = {"interrupted": seen.interrupted, "unasked": frozenset(seen.unasked)}
    made: dict[str, Any] = stop | {"moved": frozenset(seen.moved), "live": True, "left": frozenset(seen.left)}
    return Evidence(_table(seen), stacks, seen.failed, places, seen.world_size, kept=_kept(seen), unread=unread, **made)


def _table(seen: _Seen) -> Trace:
    dumps = [
        RawDump(str(seen.endpoints[rank]), rank, trace.body, answered_ns=trace.answered_ns)
        for rank, sight in sorted(seen.sights.items())
        for trace in sight.traces
    ]
    return load_raw(dumps, jobs=max(1, min(processors(), len(dumps) // _DUMPS_PER_PROCESS)))


def _kept(seen: _Seen) -> list[Kept]:
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
    for rank, reason in sorted(seen.failed.items()):
        failures = {TRACE: reason, STACKS: reason}
        entry = Entry(seen.silent[rank], rank, world_size=seen.world_size, failures=failures)
        entry.left, entry.moved = rank in seen.left, rank in seen.moved
        found.append(Kept(entry, {}))
    return found


def _closer(evidence: Evidence, seen: _Seen, roll: Roll, everything: bool) -> Evidence:
    """Take whole traces of the ranks that a first diagnosis is about, and frames of those that it names."""
    history, frames = _worth_more(diagnose(evidence))
    wanted = {"frames": frames, "traces": set() if everything else history - frames}
    fetched = False
    for kind, ranks in wanted.items():
        ends = {str(seen.endpoints[rank]): rank for rank in ranks if rank in seen.endpoints}
        if not ends:
            continue
        asked = roll.only([seen.endpoints[rank] for rank in ends.values()])
        outcomes = survey(asked.until(time.monotonic() + _LEAST_S), sight_question(kind)).outcomes
        if is_stopped(outcomes):
            evidence.interrupted = True
            return evidence  # the first diagnosis stands
        for one in outcomes:
            rank = ends.get(str(one.endpoint))
            if one.value is None or rank is None:
                continue
            if one.value.moving != seen.sights[rank].moving:
                seen.moved.add(rank)
            elif one.value.traces:
                seen.sights[rank] = one.value
            fetched = True
    return _evidence(seen) if fetched else evidence


def _worth_more(diagnosis: Diagnosis) -> tuple[set[int], set[int]]:
    """Return the ranks whose history may say more than the digest, and those whose frames locate what they did."""
    history: list[int] = []
    frames: list[int] = []
    for finding in diagnosis.findings:
        if finding.kind in _KINDS_WITH_FRAMES:
            frames += finding.culprit_ranks
        members = finding.group.ranks if finding.group is not None else finding.waiting_ranks
        history += [*finding.culprit_ranks, *members]
    return set(list(dict.fromkeys(history))[:MAX_TRACES_FROM]), set(frames[:MAX_FRAMES_FROM])
