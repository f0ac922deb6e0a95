"""Fold many findings of one kind and cause: a fault of a host or of all groups fills a page, not thousands."""

from __future__ import annotations

from collections.abc import Sequence

from torchctl.diagnosis.findings.words import ranks_of, verb
from torchctl.diagnosis.model import Finding

MAX_ALIKE = 8  # findings shown one by one: few enough to read, and independent faults stay separate
_MAX_EVIDENCE = 7  # plus a line that counts the rest: as many as fit on the screen
_SAYS = {
    "not_entered": "never entered",
    "rank_lost": "are lost, and others wait for them in",
    "p2p_mismatch": "have not reached their end of",
    "order_cycle": "wait in circles, in",
    "op_mismatch": "have a different operation from the others in",
    "shape_mismatch": "have different sizes from the others in",
    "dtype_mismatch": "have a different type from the others in",
}


def fold(findings: Sequence[Finding], waiting: Sequence[int]) -> Finding:
    """Return one finding for many of the same kind, confidence and operation but with different ranks and groups.

    Args:
        waiting: the ranks that wait for any of them.
    """
    first = findings[0]
    culprits = tuple(sorted({rank for finding in findings for rank in finding.culprit_ranks}))
    waiting = tuple(rank for rank in waiting if rank not in set(culprits))
    where = _where(findings)
    if first.kind == "stuck_running":
        summary = (
            f"all members are in {where} and {len(findings)} operations do not finish: look at the network, the devices"
            " and the communication library, not at a rank's code"
        )
    elif culprits:
        summary = f"{ranks_of(culprits)} {_SAYS[first.kind]} {where}"
    else:
        summary = f"ranks disagree ({first.kind}), and it cannot be determined which side is wrong, in {where}"
    if waiting and first.kind != "stuck_running":
        summary += f"; {ranks_of(waiting)} {verb(waiting, 'waits', 'wait')}"
    evidence = [finding.summary.partition(";")[0].partition(": look")[0] for finding in findings[:_MAX_EVIDENCE]]
    if len(findings) > _MAX_EVIDENCE:
        evidence.append(f"and {len(findings) - _MAX_EVIDENCE} more of the same kind")
    same_group = all(finding.group == first.group for finding in findings)
    return Finding(
        first.kind,
        first.confidence,
        summary,
        culprits,
        waiting,
        first.group if same_group else None,
        first.collective if all(finding.collective == first.collective for finding in findings) else None,
        next((finding.location for finding in findings if finding.location is not None), None),
        evidence,
    )


def _where(findings: Sequence[Finding]) -> str:
    """Return "all_reduce of 512 groups (tp)"."""
    names = {finding.collective.op.partition(" ")[0] for finding in findings if finding.collective is not None}
    groups = {(finding.group.name, finding.group.ranks) for finding in findings if finding.group is not None}
    words = " or ".join(sorted(names)) or "an operation"
    if not groups:
        return words
    descriptions = sorted({finding.group.desc for finding in findings if finding.group is not None})
    shown = f" ({descriptions[0]})" if len(descriptions) == 1 and descriptions[0] not in ("", "undefined") else ""
    return f"{words} of {len(groups)} group{'s' * (len(groups) != 1)}{shown}"
