"""Which findings follow from which, and the order to show them in: a cause before its consequences."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torchctl.diagnosis.findings.words import group_words, ranks_of, verb
from torchctl.diagnosis.model import DEATHS, Finding


def in_order(findings: Sequence[Finding], ended: Collection[int]) -> list[Finding]:
    """Return the findings, causes first, those with the most waiting ranks first; fill in `caused_by`.

    Args:
        ended: ranks whose process is known to have ended; no other finding explains them.
    """
    causes = sorted(findings, key=_order)
    follows: dict[int, Finding] = {}
    for finding in causes:
        cause = (
            _death_behind(finding, causes)
            or _disagreement_of(finding, causes)
            or _holder_of_lost(finding, causes, ended)
        )
        if cause is not None and id(cause) not in follows:
            follows[id(finding)] = cause
    for finding in causes:
        if id(finding) in follows:  # a rank that waits for the consequence waits for the cause
            cause = follows[id(finding)]
            waiting = {*cause.waiting_ranks, *finding.waiting_ranks} - set(cause.culprit_ranks)
            before, cause.waiting_ranks = ranks_of(cause.waiting_ranks), tuple(sorted(waiting))
            if cause.summary.endswith((f"; {before} wait", f"; {before} waits")):
                cause.summary = f"{cause.summary.rpartition('; ')[0]}; {ranks_of(cause.waiting_ranks)} wait"
    ordered = sorted((finding for finding in causes if id(finding) not in follows), key=_order)
    places = {id(finding): at for at, finding in enumerate(ordered)}
    for finding in causes:
        if id(finding) in follows:
            finding.caused_by = places[id(follows[id(finding)])]
            ordered.append(finding)
    return ordered


def _order(finding: Finding) -> tuple[bool, bool, int, str, tuple[int, ...]]:
    if finding.kind in DEATHS:
        return False, False, 0, "", ()  # they are in the order in which they happened
    return (
        finding.kind == "straggler",
        True,
        -len(finding.waiting_ranks),
        finding.kind,
        finding.culprit_ranks,
    )


def _death_behind(finding: Finding, causes: Sequence[Finding]) -> Finding | None:
    """Return the death, by the logs, of a rank for which others wait or which is lost."""
    if finding.kind in DEATHS or not finding.culprit_ranks:
        return None
    for cause in causes:
        if cause.kind in DEATHS and set(finding.culprit_ranks) <= set(cause.culprit_ranks):
            return cause
    return None


def _disagreement_of(finding: Finding, causes: Sequence[Finding]) -> Finding | None:
    """Return the disagreement, in the same group, of ranks that never entered a later operation or are lost."""
    if finding.group is None or finding.kind not in ("not_entered", "rank_lost"):
        return None
    for cause in causes:
        if cause.kind.endswith("_mismatch") and cause.kind != "p2p_mismatch" and cause.group is not None:
            same = (cause.group.name, cause.group.ranks) == (finding.group.name, finding.group.ranks)
            if same and set(finding.culprit_ranks) <= set(cause.culprit_ranks):
                return cause
    return None


def _holder_of_lost(finding: Finding, causes: Sequence[Finding], ended: Collection[int]) -> Finding | None:
    """Return the finding that explains ranks without a dump: a fault in one of their groups, where they may wait."""
    lost = set(finding.culprit_ranks)
    if finding.kind != "rank_lost" or not lost or lost & set(ended):
        return None
    for cause in causes:
        if cause.kind in ("rank_lost", "straggler") or cause.group is None or not cause.waiting_ranks:
            continue
        if lost <= set(cause.group.ranks) - set(cause.culprit_ranks):
            members = verb(finding.culprit_ranks, "is a member", "are members")
            who = ranks_of(finding.culprit_ranks)
            finding.evidence.append(f"{who} {members} of {group_words(cause.group)}, too, and may be waiting there")
            finding.confidence = "possible"
            return cause
    return None
