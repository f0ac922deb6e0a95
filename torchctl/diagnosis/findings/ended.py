"""Who of a job ended first, of what, and who only followed, by the last words of its ranks.

How this works: the death that is surely earlier than the others is the cause, if it has a cause of its own. A rank that
lost a connection lost a rank that had ended before, even if that rank's end was noticed a moment later. A rank that
gave up waiting, or that was stopped together with others, only followed. Where two deaths are too close to be ordered,
both are named.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from torchctl.diagnosis.deaths import Death, Role, surely_before
from torchctl.diagnosis.evidence import Evidence
from torchctl.diagnosis.findings.words import joined, moment, ranks_of
from torchctl.diagnosis.model import DEATHS, Confidence, Finding, Kind, ProcessName
from torchctl.text import duration

_MOST = 8  # lines of evidence
_NOTICED_LATE_S = 1.0  # a sentinel on a host without a free core


def by_last_words(evidence: Evidence, findings: Sequence[Finding]) -> list[Finding]:
    """Return what last words prove beyond the other findings, and add to those about dead ranks how these ended."""
    shown = from_deaths(evidence.deaths, evidence.size(), evidence.alive())
    if not findings:
        return shown
    for finding in findings:
        if finding.kind == "rank_lost":
            _add_deaths(finding, evidence.deaths, shown)
    died = next((one for one in findings if one.kind in DEATHS), None)
    if died is not None and shown and shown[0].culprit_ranks:
        _compare(died, shown[0])
    return []


def _compare(died: Finding, shown: Finding) -> None:
    """Add to what logs show of the first failure what last words show; if they name other ranks, neither is sure."""
    if set(died.culprit_ranks) & set(shown.culprit_ranks):
        followed = set(shown.waiting_ranks) - set(died.culprit_ranks)
        died.waiting_ranks = died.waiting_ranks or tuple(sorted(followed))
        died.evidence += [f"last word of {fact}" for fact in shown.evidence[: len(shown.culprit_ranks)]]
    else:
        died.evidence.append(f"by the last words, {shown.summary}")
        died.confidence = "possible"


def _add_deaths(finding: Finding, deaths: Sequence[Death], shown: Sequence[Finding]) -> None:
    """Add to a finding about lost ranks how they ended; of several only those that ended first are to blame."""
    dead = {one.rank: one for one in deaths if one.rank in finding.culprit_ranks}
    if not dead:
        return
    causes = set(shown[0].culprit_ranks) if shown else set()
    if len(dead) == len(finding.culprit_ranks) and causes and causes < set(finding.culprit_ranks):
        tail = finding.summary.rpartition("; ")[2] if "; " in finding.summary else ""
        followed = set(finding.culprit_ranks) - causes
        finding.culprit_ranks = tuple(sorted(causes))
        finding.waiting_ranks = tuple(sorted({*finding.waiting_ranks, *followed}))
        finding.summary = shown[0].summary + (f"; {tail}" if " wait" in tail else "")
        finding.evidence = list(shown[0].evidence)
    else:
        first = min(dead.values(), key=lambda one: one.died)
        finding.evidence = [fact for fact in finding.evidence if not fact.startswith(tuple(_starts(dead.values())))]
        finding.evidence += [_line(one, first) for one in sorted(dead.values(), key=lambda one: one.died)][:_MOST]
    if finding.location is None and len(finding.culprit_ranks) == 1:
        finding.location = dead[finding.culprit_ranks[0]].location


def _starts(deaths: Iterable[Death]) -> list[str]:
    """Return how the lines begin that only repeat that ranks did not answer."""
    return [f"rank {one.rank}: " for one in deaths]


def from_deaths(deaths: Sequence[Death], size: int | None, alive: Collection[int]) -> list[Finding]:
    """Return what the ends of a job's processes prove: at most one finding.

    Args:
        deaths: of one attempt at the job.
        size: of its world; None if it is not known.
        alive: the ranks that still answer.
    """
    ordered = sorted(deaths, key=lambda one: (one.died, -1 if one.rank is None else one.rank))
    dead = [one for one in ordered if not one.orderly]
    if not dead:
        return []
    ended = [one for one in ordered if one.orderly and surely_before(one, dead[0])]
    known = {one.rank for one in ordered} | set(alive)
    absent = [rank for rank in range(size or 0) if rank not in known]
    near = [one for one in dead if not surely_before(dead[0], one)]
    if all(one.role is Role.LOST for one in near):
        near += _noticed_late(dead, near)
    own = [one for one in near if one.role is Role.OWN]
    causes = [one for one in own if not any(surely_before(other, one) for other in own)]
    if len(causes) > 1 and all(one.signal == "SIGKILL" and not one.out_of_memory for one in causes):
        causes = []  # killed together: from outside
    elif not causes:
        causes = _stopped_alone(near, len(known), complete=bool(size) and not absent)
    if causes:
        finding = _of_causes(causes, dead, sure=bool(size) and not absent)
    elif ended and not any(one.role is Role.STOPPED for one in near):
        finding = _of_early_end(ended, dead)
    else:
        finding = _of_nobody(near)
    finding.evidence = [_line(one, dead[0]) for one in causes[:_MOST]]
    early = [_line(one, dead[0]) for one in ended[:_MOST]]
    followed = _others(_without(dead, causes), dead[0])
    finding.evidence += [*followed, *early] if causes else [*early, *followed]
    if absent:
        finding.evidence.append(f"there is no last word of {ranks_of(absent)}")
    return [finding]


def _without(deaths: Sequence[Death], others: Sequence[Death]) -> list[Death]:
    left_out = {id(one) for one in others}
    return [one for one in deaths if id(one) not in left_out]


def _noticed_late(dead: Sequence[Death], near: Sequence[Death]) -> list[Death]:
    """Return the kill that explains connections which were lost a moment before a sentinel noticed it."""
    later = [one for one in _without(dead, near) if one.noticed and one.role is Role.OWN]
    return [one for one in later[:1] if one.died - near[0].died < _NOTICED_LATE_S]


def _stopped_alone(near: Sequence[Death], count: int, *, complete: bool) -> list[Death]:
    """Return the one rank that was stopped from outside before others lost it; none if there may be another cause."""
    stopped = [one for one in near if one.role is Role.STOPPED]
    lone = len(stopped) == 1 and all(one.role is Role.LOST for one in _without(near, stopped))
    return stopped if lone and complete and count > 1 else []


def _of_causes(causes: Sequence[Death], dead: Sequence[Death], *, sure: bool) -> Finding:
    first = causes[0]
    followed = _without(dead, causes)
    alike = len({_what(one) for one in causes}) == 1
    if len(causes) == 1:
        summary = f"{_who(causes)} {_fate(first)}{' first' * bool(followed)}: {_cause(first)}"
    elif alike:
        summary = f"{_who(causes)} {_fate(first)} together: {_cause(first)}"
    else:
        each = "; ".join(f"{_name(one)}: {_cause(one)}" for one in causes[:_MOST])
        summary = f"{_who(causes)} ended first, too close together to say in which order: {each}"
    if followed:
        summary += f"; {_who(followed)} followed"
    confidence: Confidence = "likely" if sure and (len(causes) == 1 or alike) else "possible"
    return Finding(
        _kind(first),
        confidence,
        summary,
        _ranks(causes),
        _ranks(followed),
        location=first.location,
        culprit_processes=_processes(causes),
        waiting_processes=_processes(followed),
    )


def _of_early_end(ended: Sequence[Death], dead: Sequence[Death]) -> Finding:
    """Return the finding about ranks that ended orderly before others lost them; of a majority, none is named."""
    few = len(ended) < len(dead)
    summary = f"{_who(ended)} ended with exit code 0 while others still needed {'it' if len(ended) == 1 else 'them'}"
    if not few:
        summary = (
            f"{_who(ended)} ended with exit code 0, and {_who(dead)} went on and failed: whether the ones ended too"
            " early or the others went on too long cannot be determined"
        )
    else:
        summary += f"; {_who(dead)} followed: {_cause(dead[0])}"
    named = ended if few else []
    confidence: Confidence = "likely" if few else "possible"
    return Finding(
        "rank_lost",
        confidence,
        summary,
        _ranks(named),
        _ranks(dead),
        culprit_processes=_processes(named),
        waiting_processes=_processes(dead),
    )


def _of_nobody(near: Sequence[Death]) -> Finding:
    """Return the finding about first deaths that all had their cause elsewhere: it names no rank."""
    lost = [one for one in near if one.role is Role.LOST]
    waited = [one for one in near if one.role is Role.WAITED]
    shown = lost or waited or list(near)
    first = shown[0]
    if lost:
        why = "no last word shows which rank that was"
        summary = f"{_who(lost)} lost a connection to another rank first, and {why}: {_cause(first)}"
    elif waited and first.signal:
        summary = (
            f"{_who(waited)} ended first, by {first.signal}: of a watchdog's timeout or a failed check, as the log says"
        )
    elif waited:
        summary = f"{_who(waited)} gave up waiting first, and no last word shows for which rank: {_cause(first)}"
    else:
        within = duration(round(shown[-1].died - first.died, 3))
        span = f" within {within}" if len(shown) > 1 else ""
        by = joined(sorted({one.signal for one in shown}))
        summary = f"{_who(shown)} {'was' if len(shown) == 1 else 'were'} stopped from outside{span}, by {by}"
        summary += ": by the launcher, the scheduler or a person"
    return Finding(
        _kind(first),
        "possible",
        summary,
        (),
        _ranks(shown),
        location=first.location,
        waiting_processes=_processes(shown),
    )


def _kind(death: Death) -> Kind:
    if death.out_of_memory:
        return "out_of_memory"
    if death.signal and not death.crashed:
        return "killed"
    return "failed" if death.signal or death.exception or death.exit_code is not None else "rank_lost"


def _fate(death: Death) -> str:
    kind = _kind(death)
    if kind == "out_of_memory":
        return "ran out of memory"
    return {"killed": "was killed", "failed": "failed"}.get(kind, "ended")


def _cause(death: Death) -> str:
    """Return what a process died of, and the line."""
    cause = death.cause or "of a cause that could not be seen"
    if death.killed_for_memory:
        cause += " while the kernel's out-of-memory killer ran in its control group"
    at = death.location
    return cause if at is None else f"{cause} ({at.file}:{at.line})"


def _what(death: Death) -> tuple[str, str, str, int | None]:
    """Return what two deaths have in common if they are of one cause."""
    at = death.location
    return death.exception, death.signal, "" if at is None else at.file, death.exit_code if at is None else at.line


def _others(deaths: Sequence[Death], first: Death) -> list[str]:
    """Return a line per cause of the deaths that followed, the earliest first."""
    alike: dict[tuple[str, str, str, int | None], list[Death]] = {}
    for one in deaths:
        alike.setdefault(_what(one), []).append(one)
    lines = []
    for same in alike.values():
        if len(same) == 1:
            lines.append(_line(same[0], first))
            continue
        if same[0] is first:
            when = f"within {_after(same[-1], first)} of one another"
        else:
            when = f"{_after(same[0], first)} to {_after(same[-1], first)} later"
        lines.append(f"{_who(same)}: {when}, {_cause(same[0])}")
    return lines[:_MOST]


def _line(death: Death, first: Death) -> str:
    """Return when and of what a process ended, against the first death."""
    when = _clock(death.died) if death is not first else f"{moment(death.died)[:10]} {_clock(death.died)}"
    if death.orderly and death is not first:
        when += f", {duration(round(first.died - death.died, 3))} before the first death"
    elif death is not first:
        when += f", {_after(death, first)} later"
    step = "" if death.step is None else f", step {death.step}"
    host = f", host {death.host}" if death.host != first.host else ""
    return f"{_name(death)}: {when}, {_cause(death)}{step}{host}"


def _after(death: Death, first: Death) -> str:
    return duration(round(death.died - first.died, 3)) if death.died > first.died else "0ms"


def _clock(seconds: float) -> str:
    """Return a time of day in UTC with milliseconds; the day is in JSON."""
    whole = int(seconds) % 86400
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}.{int(seconds * 1000) % 1000:03} UTC"


def _name(death: Death) -> str:
    return f"pid {death.pid}" if death.rank is None else f"rank {death.rank}"


def _who(deaths: Sequence[Death]) -> str:
    ranks = _ranks(deaths)
    pids = [f"pid {one.pid}" for one in deaths if one.rank is None]
    return joined([*([ranks_of(ranks)] if ranks else []), *pids[:_MOST]])


def _ranks(deaths: Sequence[Death]) -> tuple[int, ...]:
    return tuple(sorted({one.rank for one in deaths if one.rank is not None}))


def _processes(deaths: Sequence[Death]) -> tuple[ProcessName, ...]:
    nameless = [one for one in deaths if one.rank is None]
    return tuple(ProcessName(f"{one.host} pid {one.pid}".strip(), one.host or None, one.pid) for one in nameless)
