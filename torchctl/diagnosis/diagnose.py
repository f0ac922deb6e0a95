"""`diagnose`: evidence in, a diagnosis out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from torchctl.diagnosis.evidence import NOT_READ, Evidence
from torchctl.diagnosis.findings.accuse import accuse
from torchctl.diagnosis.findings.consequences import in_order
from torchctl.diagnosis.findings.court import Court, collective_at, name_of
from torchctl.diagnosis.findings.died import first_failure
from torchctl.diagnosis.findings.ended import by_last_words
from torchctl.diagnosis.findings.folding import MAX_ALIKE
from torchctl.diagnosis.findings.health import in_flight, moving, unproven
from torchctl.diagnosis.findings.outlier import elsewhere_too, from_stacks
from torchctl.diagnosis.findings.parted import decide
from torchctl.diagnosis.findings.straggler import find_straggler
from torchctl.diagnosis.findings.watchdog import from_logs
from torchctl.diagnosis.findings.words import group_words, ranks_of, unable_words, verb
from torchctl.diagnosis.model import Confidence, Diagnosis, Finding
from torchctl.diagnosis.waits.members import state_members
from torchctl.diagnosis.waits.proving import proofs_of
from torchctl.diagnosis.waits.standing import Standing, standings_of
from torchctl.diagnosis.waits.wiring import waits_of
from torchctl.flightrec.decoding.raw import Failure
from torchctl.flightrec.table.trace import State, Trace
from torchctl.flightrec.view.userframe import nearest_frame
from torchctl.text import duration

_FOLLOWING = ("timed_out", "bad_file")


def diagnose(evidence: Evidence) -> Diagnosis:
    """Return what is wrong with a job, who is the cause, and who only waits. Does no I/O."""
    trace = evidence.trace
    failed = dict(evidence.failed)
    for failure in trace.bad:
        if failure.rank is not None and failure.rank not in trace.ranks:
            failed.setdefault(failure.rank, f"its dump is unusable: {failure.error.message}")
    evidence.failed = failed
    if evidence.moved is None:
        evidence.moved = trace.moved
    state_members(evidence)
    proofs = proofs_of(evidence)
    court = Court(proofs, waits_of(proofs))
    findings, unknown = accuse(court)
    findings = decide(court, findings)
    if evidence.live and not findings:
        findings += _left_behind(evidence)
    standings = standings_of(evidence)
    at_store = any(one.wait is not None for one in court.waits.hidden)
    by_stacks = _by_stacks(court, standings, findings, [] if at_store else unknown)
    unknown = unknown + by_stacks if at_store else by_stacks
    unknown = _by_logs(evidence, findings, unknown)
    findings += by_last_words(evidence, findings)
    doubts = [] if findings else _doubts(court, unknown)
    if not (findings or unknown or doubts):
        findings += _straggler(evidence)  # a straggler means nothing while a rank hangs, or may hang
    if evidence.interrupted or evidence.unasked:  # a rank that was not asked, or not waited for, is not lost
        findings = [finding for finding in findings if not evidence.unasked.intersection(finding.culprit_ranks)]
        unknown.insert(0, _left_out(evidence))
    findings = in_order(findings, evidence.left)
    _add_timed_out(trace, findings)
    _add_bad_files(trace, findings)
    seen = evidence.ranks() or (sorted(evidence.logs.ranks) if evidence.logs.says_anything else [])
    seen = seen or sorted({one.rank for one in evidence.deaths if one.rank is not None})
    if not findings:  # a rank that is held or stopped is the first thing to look at
        held = _held(evidence, evidence.ranks())
        unknown = held + [one for one in [*unknown, *doubts] if one not in held]
    size = evidence.size()
    unread = {one.rank for one in evidence.unread if one.rank is not None}
    missing = sorted((set(range(size or 0)) | set(failed) | unread) - set(seen))
    healthy = False if findings else None if unknown else True
    return Diagnosis(
        healthy,
        _verdict(healthy, findings, unknown, court),
        size,
        seen,
        missing,
        failed,
        findings,
        unknown,
        [one.process for one in standings if one.process is not None],
        () if findings else tuple(key for one in court.waits.hidden if one.wait is not None for key in one.wait.keys),
    )


def _by_stacks(court: Court, standings: Sequence[Standing], findings: list[Finding], unknown: list[str]) -> list[str]:
    """Add what stacks show to the findings if no dump has an operation; return what is not known."""
    evidence = court.proofs.evidence
    for finding in findings:
        finding.evidence += elsewhere_too(finding, standings)
    if findings or len(evidence.trace) or evidence.moved or court.waits.fresh:
        return unknown
    shown = from_stacks(standings, live=evidence.live)
    findings += shown.findings
    # If all are in calls, `shown` says what is not known about all of them; do not repeat it for each call.
    return shown.unknown + ([] if all(one.activity.call for one in standings) else unknown)


def _by_logs(evidence: Evidence, findings: list[Finding], unknown: list[str]) -> list[str]:
    """Add what logs prove to the findings: deaths in any case, hangs if nothing else does; return what is not known."""
    logs = evidence.logs
    if not logs.count:
        return unknown
    shown, left = from_logs(logs) if logs.hangs and not findings else ([], [])
    died, not_known = first_failure(logs, hang_known=bool(findings or shown))
    alone = not (len(evidence.trace) or evidence.stacks or evidence.processes)
    if died:
        left = []
    elif alone and not (findings or shown or left or not_known) and logs.says_anything:
        left = ["the logs show no failure and no hang, which does not prove that there is none"]
    findings += died
    if not len(evidence.trace):
        findings += shown
        return left + (not_known if alone else []) + unknown
    return unknown + [f"by the logs, {finding.summary}" for finding in shown] + left


def _doubts(court: Court, unknown: Sequence[str]) -> list[str]:
    """Return what may be wrong with a job without findings, in words; empty if it is proven healthy."""
    evidence, trace = court.proofs.evidence, court.trace
    doubts = [*in_flight(court), *trace.doubts[:4], *_without_evidence(evidence, evidence.ranks())]
    if not len(trace) and not evidence.stacks and not evidence.processes:
        doubts.append(f"there is no dump and no stack from any rank{_not_read(evidence)}")
    elif not trace.dumps and not unknown:
        doubts.append("there is no dump from any rank, and the stacks show no rank that others wait for")
    elif trace.dumps and not len(trace) and not evidence.moved:
        doubts.append("no dump holds an operation: the recorder may be off (TORCH_FR_BUFFER_SIZE)")
    if evidence.stacks or evidence.processes:
        doubts += [str(one) for one in evidence.unread if one.rank is None and one.kind != NOT_READ][:2]
    if unknown:  # others often wait for a rank without a dump: one that holds its interpreter lock, say
        doubts += [f"rank {rank} left no dump: {why}" for rank, why in sorted(evidence.no_dump.items())[:4]]
    return doubts or ([] if unknown else unproven(court))


def _without_evidence(evidence: Evidence, seen: Sequence[int]) -> list[str]:
    """Return which ranks left no evidence, and why: the job may be waiting for one of them."""
    alike: dict[str, list[int]] = defaultdict(list)
    known = {*seen, *evidence.unasked, *evidence.degraded}
    for rank, reason in evidence.failed.items():
        if rank not in known:
            alike[reason].append(rank)
    for one in evidence.unread:
        if one.rank is not None and one.rank not in {*known, *evidence.failed}:
            alike[f"{one.source} {one.reason}"].append(one.rank)
    lacking = [f"there is no data from {ranks_of(sorted(ranks))}: {reason}" for reason, ranks in alike.items()]
    return (_held(evidence, seen) + lacking)[:4]


def _held(evidence: Evidence, seen: Sequence[int]) -> list[str]:
    """Return which ranks left no evidence because they are stopped or held, and what holds them."""
    alike: dict[str, list[int]] = defaultdict(list)
    for rank, one in evidence.degraded.items():
        if rank in evidence.failed and rank not in seen and rank not in evidence.unasked:
            alike[one.why].append(rank)
    return [unable_words(sorted(ranks), why) for why, ranks in alike.items()][:4]


def _not_read(evidence: Evidence) -> str:
    """Return the first file that was not read, and why, as the end of a sentence."""
    if not evidence.unread:
        return ""
    more = len(evidence.unread) - 1
    return f"; {evidence.unread[0]}" + (f", and {more} more {verb([0] * more, 'file', 'files')}" if more else "")


def _left_out(evidence: Evidence) -> str:
    ranks = sorted(evidence.unasked)
    if not evidence.interrupted:
        return f"the deadline passed before {ranks_of(ranks)} could be asked: try a longer --timeout"
    return f"interrupted before {ranks_of(ranks)} had answered" if ranks else "interrupted before every rank was asked"


def _left_behind(evidence: Evidence) -> list[Finding]:
    """Return the finding about ranks whose process ended without closing while others run, even if none waits."""
    lost = sorted(evidence.left)
    if not lost or not evidence.trace.ranks:
        return []
    reasons = [f"rank {rank}: {evidence.failed.get(rank, 'its process has ended')}" for rank in lost[:8]]
    summary = f"{ranks_of(lost)} ended without closing, and other ranks of the job are still running"
    sure: Confidence = "possible" if evidence.moved else "likely"
    return [Finding("rank_lost", sure, summary, tuple(lost), (), evidence=reasons)]


def _straggler(evidence: Evidence) -> list[Finding]:
    hosts = {place.host for place in evidence.places.values()}
    one_clock = len(hosts) == 1 and None not in hosts and set(evidence.places) >= set(evidence.trace.ranks)
    found = find_straggler(evidence.trace, one_clock)
    if found is None:
        return []
    trace = evidence.trace
    group = trace.groups[found.group]
    made = collective_at(trace, found.row)
    frame = nearest_frame(trace.stack_of(found.row))
    lateness = f"median {duration(found.median_ms / 1000)}, p99 {duration(found.p99_ms / 1000)}"
    sure: Confidence = "likely" if one_clock else "possible"
    clock = "" if one_clock else "; a clock ahead by as much would look the same"
    finding = Finding(
        "straggler",
        sure,
        f"rank {found.rank} is the last to enter in {found.count} of {found.of} operations of"
        f" {group_words(group)}: {lateness} after the second to last{clock}",
        (found.rank,),
        tuple(rank for rank in group.members if rank != found.rank),
        name_of(group),
        made,
        evidence=[f"lateness of rank {found.rank}: {lateness}"],
        lateness_ms=(found.median_ms, found.p99_ms),
    )
    if frame is not None:
        finding.evidence.append(f"it enters {made.op} at {frame.filename}:{frame.line} ({frame.name})")
    return [finding]


def _add_timed_out(trace: Trace, findings: list[Finding]) -> None:
    """Add a finding about operations that only look complete because an abort ended them."""
    if not len(trace):
        return
    late = (trace.state == State.LATE).nonzero()[0]
    if not len(late):
        return
    ranks = sorted(set(trace.rank[late].tolist()))
    row = int(late[0])
    group, made = trace.groups[int(trace.group[row])], collective_at(trace, row)
    summary = f"operations of {ranks_of(ranks)} look complete but are not: they ended after their own timeout"
    which = made.op if made.seq_id is None else f"{made.op}, sequence id {made.seq_id}"
    evidence = [f"{which} of {group_words(group)}, timeout {duration(trace.timeout_ms[row] / 1000)}"]
    cause = 0 if findings else None
    findings.append(
        Finding("timed_out", "likely", summary, (), tuple(ranks), name_of(group), made, None, evidence, cause)
    )


def _add_bad_files(trace: Trace, findings: list[Finding]) -> None:
    roots = {rank: at for at, finding in enumerate(findings) for rank in finding.culprit_ranks}
    alike: dict[int | None, list[Failure]] = defaultdict(list)
    for failure in trace.bad:
        alike[None if failure.rank is None else roots.get(failure.rank)].append(failure)
    for cause, failures in alike.items():
        if len(failures) > MAX_ALIKE:
            findings.append(_many_bad_files(failures, cause))
            continue
        for failure in failures:
            culprits = () if failure.rank is None else (failure.rank,)
            text = str(failure.error)
            findings.append(
                Finding("bad_file", "certain", text, culprits, (), evidence=[failure.source], caused_by=cause)
            )


def _many_bad_files(failures: Sequence[Failure], cause: int | None) -> Finding:
    """Return one finding for many files that cannot be used; `failed` has the reason for each rank."""
    ranks = tuple(sorted({failure.rank for failure in failures if failure.rank is not None}))
    summary = f"{len(failures)} files cannot be used" + (f", of {ranks_of(ranks)}" if ranks else "")
    told = [str(failure.error) for failure in failures[: MAX_ALIKE - 1]]
    evidence = [*told, f"and {len(failures) - len(told)} more"]
    return Finding("bad_file", "certain", f"{summary}: {told[0]}", ranks, (), evidence=evidence, caused_by=cause)


def _verdict(healthy: bool | None, findings: list[Finding], unknown: list[str], court: Court) -> str:
    if findings:
        more = sum(finding.caused_by is None and finding.kind not in _FOLLOWING for finding in findings[1:])
        tail = f" ({more} more finding{'s' * (more > 1)})" if more else ""
        return f"{findings[0].summary}{tail}."
    if healthy is None:
        return f"Cannot tell: {unknown[0]}."
    if moving(court) and (court.trace.state <= State.LATE).any():
        return "Nothing is wrong: every rank was moving when it was dumped."
    if court.proofs.compared:
        return "Nothing is wrong: the job moves, and no rank waits for another."
    return "Nothing is wrong: no rank waits for another."
