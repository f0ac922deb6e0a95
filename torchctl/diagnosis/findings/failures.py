"""Who died of what, by the logs: each failure that they show, whose it is, and who only followed another's.

How this works. A failure counts if something shows that a process ended of it: torch's excepthook printed it, nothing
follows it in its log, an exception of C++ or the kernel ended the process, or torchrun or Slurm saw the process end.
An exception after which a log goes on was handled, as far as can be seen. What only says that a peer is gone or that
torch aborts after a timeout makes a victim.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from torchctl.diagnosis.model import Kind
from torchctl.logs.facts import LogFacts
from torchctl.logs.pattern import CAUSES, Pattern
from torchctl.logs.said import Ended, Event, Frame, Line, Raised, Speaker, shown
from torchctl.logs.signals import code_words

_TAIL = 3  # lines after an exception that do not show that the process went on
_NEAR = 200  # the same, if a process is known to have ended with an exit code
_WEAK_TYPES = ("DistBackendError", "DistStoreError", "DistNetworkError", "DistError", "DistQueueEmptyError")
_MEANS = "this means: {}"
_WAITS = ("gloo_timeout", "store_timeout", "nccl_id_wait")
_KILL, _TERM, _ABORT = -9, -15, -6


@dataclass(slots=True)
class Failure:
    """A failure of a process.

    Attributes:
        words: what it did, after its name: "raised ValueError: no batch".
        weak: another rank's failure causes it as well.
        sure: that a process ended of it is known.
        waited: it gave up waiting for another, which is the one to look at.
        more: further evidence.
    """

    kind: Kind
    who: Speaker
    line: Line
    words: str
    weak: bool = False
    sure: bool = True
    waited: bool = False
    frame: Frame | None = None
    more: list[str] = field(default_factory=list)
    pid: int | None = None
    count: int = 1


@dataclass(slots=True)
class Failures:
    """What logs say about processes that ended.

    Attributes:
        strong, weak: failures, in the order of their lines.
        victims: ranks that only followed.
        root: whom torchrun calls the root cause, and of what it ended.
        mentioned: exceptions after which the log went on, and of which nothing shows that a process ended.
        proven: something shows that a process of the job ended badly.
    """

    strong: list[Failure] = field(default_factory=list)
    weak: list[Failure] = field(default_factory=list)
    victims: set[int] = field(default_factory=set)
    root: Ended | None = None
    mentioned: list[Raised] = field(default_factory=list)
    proven: bool = False


def failures_of(facts: LogFacts) -> Failures:
    """Return the failures that logs show."""
    found = Failures()
    ended = [one for one in facts.ended if one.code]
    found.root = next((one for one in ended if one.root), None)
    made: list[Failure] = []
    for raised in facts.raised:
        failure = _of_exception(raised, bool(ended))
        if isinstance(failure, Failure):
            made.append(failure)
        elif failure:
            found.victims.update(_rank(raised.who))
            found.proven = True
        elif raised.meaning is None or raised.meaning[0].role in CAUSES:
            found.mentioned.append(raised)
    for event in facts.events:
        if event.pattern.role == "victim":
            found.victims.update(_rank(event.who))
            found.proven |= event.pattern.name == "nccl_aborted"
        elif event.pattern.role in CAUSES and event.fatal:
            made.append(_of_event(event))
    _join(made, facts, ended)
    _take_ends(made, ended, found, facts)
    found.proven |= bool(made or ended)
    if found.proven:
        _take_mentions(made, facts)
    found.victims.update(rank for rank, _ in facts.caught)
    for failure in _first_of_each(made):
        (found.weak if failure.weak else found.strong).append(failure)
    return found


def _of_exception(raised: Raised, any_ended: bool) -> Failure | bool:
    """Return the failure behind an exception; True if it only follows another's, False if it was handled."""
    inner = raised.inner or raised
    meaning = inner.meaning or raised.meaning
    pattern = None if meaning is None else meaning[0]
    if raised.aside or not (raised.by_hook or raised.after <= (_NEAR if any_ended else _TAIL)):
        return False
    sure = raised.by_hook or not raised.after or any_ended
    if pattern is not None and pattern.role in ("victim", "hang"):
        return True
    kind: Kind = "failed"
    weak = inner.kind.rpartition(".")[2] in _WEAK_TYPES
    if pattern is not None and pattern.role in CAUSES:
        kind, weak = pattern.role, pattern.weak  # type: ignore[assignment]
    chain = [] if raised.before is None else [f"raised while handling {raised.before.words}"]
    if raised.inner is not None:
        chain.append("raised in another process, which passed it on")
    if pattern is not None and pattern.role in CAUSES:
        chain.append(_MEANS.format(pattern.meaning))
    frame = inner.frame or raised.frame
    waited = weak and (pattern is None or pattern.name in _WAITS)
    return Failure(kind, raised.who, raised.line, f"raised {inner.words}", weak, sure, waited, frame, chain)


def _of_event(event: Event) -> Failure:
    about, pattern = event.about, event.pattern
    who = event.who
    if host := about.get("host") or about.get("on"):
        who = replace(who, host=host)
    if event.line.text.startswith("  what():"):
        words = f"ended of an exception of C++: {shown(event.line.text[11:])[:200]}"
    elif about.get("why"):
        words = f"was ended by Slurm: {about['why'].lower()}"
    elif pattern.role == "node_lost":
        words = f"was lost: {pattern.meaning}"
    else:
        words = f"died: {pattern.meaning}"
    pid = int(about["pid"]) if about.get("pid") else None
    kind: Kind = pattern.role  # type: ignore[assignment]
    return Failure(kind, who, event.line, words, pattern.weak, True, pid=pid)


def _join(made: list[Failure], facts: LogFacts, ended: Iterable[Ended]) -> None:
    """Give a rank to the process of which only a pid is known, and to the one exception that has none."""
    by_pid = {one.pid: one.who for one in ended if one.pid is not None and one.who.rank is not None}
    for failure in made:
        if failure.who.rank is None and failure.pid in by_pid:
            failure.who = by_pid[failure.pid]
    ranked = next((one for one in made if one.kind == "out_of_memory" and one.who.rank is not None), None)
    if ranked is not None:
        for failure in [one for one in made if one.kind == "out_of_memory" and one.who.rank is None]:
            ranked.more.append(str(failure.line))
            made.remove(failure)
    nameless = [one for one in made if one.who.rank is None and one.words.startswith("raised") and not one.weak]
    known = {one.who.rank for one in made}
    failed = {one.who.rank: one for one in ended if (one.code or 0) > 0 and one.who.rank not in known}
    if len(failed) == 1 and len({one.words for one in nameless}) == 1 and None not in failed:
        for failure in nameless[:1]:
            failure.more.append(f"the exit code is rank {next(iter(failed))}'s: {next(iter(failed.values())).line}")
            failure.who = next(iter(failed.values())).who


def _take_ends(made: list[Failure], ended: Iterable[Ended], found: Failures, facts: LogFacts) -> None:
    """Add the ends of processes that no exception explains; those that torchrun or torch caused are victims."""
    aborted = {rank for rank, _ in facts.caught} | {
        one.who.rank for one in facts.events if one.pattern.name in ("nccl_aborted", "watchdog_timeout", "dump_signal")
    }
    closed = {one.about["pid"] for one in facts.events if one.pattern.name == "elastic_closing"}
    any_oom = [one for one in made if one.kind == "out_of_memory"]
    for one in ended:
        rank, code = one.who.rank, one.code
        if any(_same(one, failure) for failure in made):
            continue
        if rank in found.victims and code != _KILL:
            continue
        if code in (_TERM, _ABORT) or str(one.pid) in closed:
            if rank is not None:
                found.victims.add(rank)
            if code == _ABORT and rank not in aborted and not facts.caught:
                made.append(Failure("failed", one.who, one.line, "ended of SIGABRT", True, True, pid=one.pid))
            elif code == _TERM and str(one.pid) not in closed:
                made.append(Failure("killed", one.who, one.line, "was ended by SIGTERM", True, True, pid=one.pid))
        elif code == _KILL:
            if any_oom:
                any_oom[0].more.append(str(one.line))
                if any_oom[0].who.rank is None:
                    any_oom[0].who = one.who
                continue
            words = "was killed by SIGKILL: by an out-of-memory killer, a scheduler or a person"
            made.append(Failure("killed", one.who, one.line, words, False, False, pid=one.pid))
        elif code is not None:
            how = f"exited with {code_words(code)}" if code > 0 else f"ended of {code_words(code)}"
            nameless = any(
                other.who.rank is None and not other.kind.endswith("ChildFailedError") for other in facts.raised
            )
            made.append(Failure("failed", one.who, one.line, how, nameless and code > 0, True, pid=one.pid))


def _same(one: Ended, failure: Failure) -> bool:
    """Whether an end is that of a process whose failure is known."""
    if one.who.rank is not None and one.who.rank == failure.who.rank:
        return True
    return one.pid is not None and one.pid == failure.pid


def _take_mentions(made: list[Failure], facts: LogFacts) -> None:
    """Add lines that name a failure, of ranks whose end nothing else explains, and as evidence of those it does."""
    for event in facts.events:
        pattern = event.pattern
        if pattern.role not in CAUSES or event.fatal:
            continue
        if event.who.rank is None and any(_MEANS.format(pattern.meaning) in one.more for one in made):
            continue  # the exception says it, too
        same = [one for one in made if one.who.rank is not None and one.who.rank == event.who.rank]
        if same:
            if len(same[0].more) < 4 and event.line.number != same[0].line.number:
                same[0].more.append(str(event.line))
            if same[0].kind == "failed" and not pattern.weak and same[0].words.startswith(("ended of", "exited")):
                same[0].kind = pattern.role  # type: ignore[assignment]
                same[0].words += f": {pattern.meaning}"
            continue
        made.append(_mention(event, pattern))


def _mention(event: Event, pattern: Pattern) -> Failure:
    kind: Kind = pattern.role  # type: ignore[assignment]
    words = f"{'reports' if pattern.name != 'xid' else 'has'} {shown(event.line.text)[:160]}"
    return Failure(kind, event.who, event.line, words, True, False, more=[_MEANS.format(pattern.meaning)])


def _first_of_each(made: list[Failure]) -> list[Failure]:
    """Return the first strong failure of each process, or its first weak one."""
    best: dict[object, Failure] = {}
    for failure in made:
        key = (
            failure.who.rank if failure.who.rank is not None else (failure.who.source, failure.who.place, failure.words)
        )
        known = best.get(key)
        if known is None or (known.weak, known.line.number) > (failure.weak, failure.line.number):
            best[key] = failure
    return list(best.values())


def _rank(who: Speaker) -> set[int]:
    return set() if who.rank is None else {who.rank}
