"""Whom to name for the failure of a job, by its logs: the first failure, and how many others only followed.

How this works. Failures of one kind with the same words are one finding. A line comes before another if it does in the
same log, or if it is more than a second earlier by the clocks of two hosts. The failure that comes before all others
is the cause; if several may be the first, all are said. A failure that another rank's end causes just as well (a
timeout, a refused connection) is named only if no other is known.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Sequence

from torchctl.diagnosis.findings.failures import Failure, Failures, failures_of
from torchctl.diagnosis.findings.words import ranks_of, verb
from torchctl.diagnosis.model import Confidence, Finding, Location, ProcessName
from torchctl.logs.facts import LogFacts
from torchctl.logs.said import Ended, Line
from torchctl.logs.signals import code_words
from torchctl.text import duration

CLOCKS_AGREE_S = 1.0
_MOST = 6  # findings of one log; more failures than that are counted
_NUMBER = re.compile(r"\d+|0x[0-9a-f]+")


def first_failure(facts: LogFacts, hang_known: bool) -> tuple[list[Finding], list[str]]:
    """Return who died first of what, and what is not known.

    Args:
        hang_known: who keeps others waiting is known without these failures; then timeouts follow from that.
    """
    failures = failures_of(facts)
    if failures.strong:
        return _findings(failures, _alike(failures.strong), facts), []
    if hang_known or facts.caught:
        return [], []
    if any(one.waited for one in failures.weak):
        return _waited(failures, facts)
    if failures.weak and not _all_lost(failures, facts):
        found = _findings(failures, _alike(failures.weak), facts)
        for finding in found:
            finding.confidence = "possible"
        return found, []
    if lost := _silent(failures, facts):
        return [lost], []
    unknown = []
    if failures.victims and failures.proven:
        unknown.append(
            f"{ranks_of(sorted(failures.victims))} only followed another's end, and no log says whose:"
            " the logs of the other ranks would"
        )
    for raised in failures.mentioned[:2]:
        unknown.append(
            f"{raised.line.source}, line {raised.line.number}, shows {raised.words}, and the log goes on:"
            " nothing shows that a process ended of it"
        )
    return [], unknown


def _waited(failures: Failures, facts: LogFacts) -> tuple[list[Finding], list[str]]:
    """Return the one rank that did not give up waiting while all others did; if there is none, what is not known."""
    gave_up = [one for one in failures.weak if one.waited]
    ranks = sorted({one.who.rank for one in gave_up if one.who.rank is not None})
    known = facts.ranks | _others_ended(facts) | failures.victims
    missing = sorted(known - set(ranks))
    evidence = [str(one.line) for one in gave_up[:3]]
    if len(missing) == 1 and len(ranks) > 1:
        summary = (
            f"{ranks_of(missing)} is the only one that did not give up waiting, while {ranks_of(ranks)}"
            f" waited in vain: it may never have come"
        )
        return [Finding("not_entered", "possible", summary, tuple(missing), tuple(ranks), evidence=evidence)], []
    where: dict[str, list[Failure]] = defaultdict(list)
    for one in gave_up:
        at = "an unknown line" if one.frame is None else f"{one.frame.file}:{one.frame.line}"
        where[at].append(one)
    said = []
    for at, same in list(where.items())[:4]:
        who = sorted({one.who.rank for one in same if one.who.rank is not None})
        said.append(f"{ranks_of(who) if who else 'a process'} gave up waiting at {at}")
    return [], [f"{'; '.join(said)}: for whom, no log says; the logs or stacks of all ranks would", *evidence[:1]]


def _alike(failures: Sequence[Failure]) -> list[list[Failure]]:
    """Return the failures by what they are, the first of all first."""
    groups: dict[tuple[str, str, object], list[Failure]] = defaultdict(list)
    for failure in failures:
        at = None if failure.frame is None else (failure.frame.file, failure.frame.line)
        groups[failure.kind, _NUMBER.sub("#", failure.words), at].append(failure)
    for same in groups.values():
        same.sort(key=lambda one: (one.who.rank is None, one.who.rank or 0))
    ordered = list(groups.values())
    first = [one for one in ordered if not any(_before(other, one) for other in ordered if other is not one)]
    return first + [one for one in ordered if one not in first] if first else ordered


def _before(one: Sequence[Failure], other: Sequence[Failure]) -> bool:
    """Whether a failure of one group comes before all of another."""
    return any(all(_earlier(a.line, b.line) for b in other) for a in one)


def _earlier(one: Line, other: Line) -> bool:
    if one.source == other.source:
        return one.number < other.number
    if one.when is None or other.when is None:
        return False
    apart = other.when.minus(one.when)
    return apart is not None and apart > CLOCKS_AGREE_S


def _findings(failures: Failures, groups: list[list[Failure]], facts: LogFacts) -> list[Finding]:
    first = groups[0]
    tied = [one for one in groups[1:] if not _before(first, one)]
    named = {failure.who.rank for failure in first}
    for group in tied:
        named |= {failure.who.rank for failure in group}
    victims = sorted((failures.victims | _others_ended(facts)) - {rank for rank in named if rank is not None})
    if None in named and first[0].kind not in ("killed", "node_lost"):
        victims = []  # one of them may be the process without a rank
    found = []
    for number, group in enumerate(groups[:_MOST]):
        finding = _finding(group, victims if not number else [])
        if not number and tied:
            finding.summary += "; another failed at about the same time, and which was first cannot be determined"
        if (number and group in tied) or (not number and tied):
            finding.confidence = "possible"
        if number and group not in tied:
            apart = _apart(first, group)
            finding.evidence.append(f"this came {apart} the first failure" if apart else "this came later")
            finding.confidence = "possible"
        found.append(finding)
    _say_root(found[0], failures.root, victims, named)
    return found


def _say_root(first: Finding, root: Ended | None, victims: Sequence[int], named: Collection[int | None]) -> None:
    """Say that torchrun's root cause only followed, if it did."""
    if root is None or root.who.rank is None or root.who.rank in named or None in named:
        return
    called = f"rank {root.who.rank}, which torchrun calls the root cause ({code_words(root.code)})"
    if list(victims) == [root.who.rank]:
        first.summary = first.summary.replace(f"rank {root.who.rank} only followed", f"{called}, only followed")
    else:
        first.summary += f", and so did {called}"
    first.evidence.append(str(root.line))


def _others_ended(facts: LogFacts) -> set[int]:
    return {one.who.rank for one in facts.ended if one.code and one.who.rank is not None}


def _apart(first: Sequence[Failure], later: Sequence[Failure]) -> str:
    a, b = first[0].line.when, later[0].line.when
    apart = None if a is None or b is None else b.minus(a)
    return f"{duration(apart)} after" if apart is not None and apart > 0 else ""


def _finding(group: Sequence[Failure], victims: Sequence[int]) -> Finding:
    first = group[0]
    ranks = tuple(sorted({one.who.rank for one in group if one.who.rank is not None}))
    others = [one for one in group if one.who.rank is None]
    who = ranks_of(ranks) if ranks else _place(first)
    summary = f"{who} {first.words}"
    if first.frame is not None:
        summary += f", in {first.frame.function} ({first.frame.file}:{first.frame.line})"
    if victims:
        summary += f"; {ranks_of(victims)} only followed"
    sure: Confidence = "likely" if all(one.sure for one in group) else "possible"
    where = None
    if first.frame is not None:
        at = first.frame
        process = "" if first.who.rank is not None else first.who.place
        where = Location(first.who.rank, at.file, at.line, at.function, process)
    evidence = [str(one.line) for one in group[:3]]
    if len(group) > 3:
        evidence.append(f"and the same from {len(group) - 3} more {verb(group[3:], 'process', 'processes')}")  # type: ignore[arg-type]
    if first.frame is not None and first.frame.code:
        evidence.append(f"at that line: {first.frame.code}")
    return Finding(
        first.kind,
        sure,
        summary,
        ranks,
        tuple(victims),
        location=where,
        evidence=[*evidence, *first.more],
        culprit_processes=tuple(ProcessName(one.who.place, one.who.host or None, one.pid) for one in others[:8]),
    )


def _place(failure: Failure) -> str:
    if failure.kind == "node_lost":
        return failure.who.host or "a node"
    if "ended by Slurm" in failure.words or "cancelled" in failure.words:
        return "the job"
    return f"a process ({failure.who.place})"


def _all_lost(failures: Failures, facts: LogFacts) -> bool:
    """Whether one rank alone is silent while the others report that it is gone."""
    return _silent(failures, facts) is not None


def _silent(failures: Failures, facts: LogFacts) -> Finding | None:
    """Return the finding about the one rank whose log ends without a word while all others lost a connection."""
    silent = sorted(
        facts.ranks - failures.victims - {one.who.rank for one in failures.weak if one.who.rank is not None}
    )
    followed = sorted(failures.victims)
    if len(silent) != 1 or len(followed) < 2:
        return None
    summary = (
        f"{ranks_of(silent)} is the only one whose log shows no failure, while {ranks_of(followed)} lost"
        " the connection to another: it may have ended without a word"
    )
    evidence = [str(facts.lines[rank]) for rank in followed[:3] if rank in facts.lines]
    return Finding("rank_lost", "possible", summary, tuple(silent), tuple(followed), evidence=evidence)
