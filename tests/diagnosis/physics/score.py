"""How right a verdict is, by the truth of a simulated job."""

from __future__ import annotations

from typing import Literal

from tests.diagnosis.physics.faults import Blame
from tests.diagnosis.physics.situations import Situation
from torchctl.diagnosis.model import Diagnosis, Finding

Result = Literal[
    "right", "fair tie", "cannot tell", "innocent named", "innocent certain", "hang called healthy",
    "false alarm", "does not end",
]  # fmt: skip
RESULTS: tuple[Result, ...] = Result.__args__  # type: ignore[attr-defined]
BAD: frozenset[Result] = frozenset(
    {"innocent named", "innocent certain", "hang called healthy", "false alarm", "does not end"}
)
_FOLLOWING = ("timed_out", "bad_file")


def score(situation: Situation, found: Diagnosis) -> Result:
    """Return the result of one diagnosis."""
    roots = [one for one in found.findings if one.caused_by is None and one.kind not in _FOLLOWING]
    blame = situation.blame
    guilty = blame.ranks.union(*blame.fair)
    innocents = [one for one in roots if set(one.culprit_ranks) - guilty and not _is_pair(one, blame)]
    if any(one.confidence == "certain" for one in innocents):
        return "innocent certain"
    if not situation.hangs and not blame.ranks:
        return _of_healthy(roots, found.healthy)
    if innocents:
        return "innocent named"
    if found.healthy and situation.hangs:
        return "hang called healthy"
    named = frozenset(rank for one in roots for rank in one.culprit_ranks)
    if named == blame.ranks and roots and (named or any(one.kind == "stuck_running" for one in roots)):
        return "right"
    if named:
        return "right" if named < blame.ranks else "fair tie"
    if roots or blame.nobody:
        return "fair tie" if blame.nobody or _is_tie(roots) else "cannot tell"
    return "cannot tell"


def _is_pair(finding: Finding, blame: Blame) -> bool:
    """Whether it names the culprit and the one rank that it waits for in a circle: either may be wrong."""
    circle = finding.kind in ("order_cycle", "p2p_mismatch") and finding.confidence != "certain"
    return circle and len(finding.culprit_ranks) == 2 and bool(blame.ranks & set(finding.culprit_ranks))


def _of_healthy(roots: list[Finding], healthy: bool | None) -> Result:
    if any(one.culprit_ranks for one in roots):
        return "innocent named" if any(one.kind != "straggler" for one in roots) else "false alarm"
    if any(one.kind == "stuck_running" for one in roots):
        return "does not end"
    if roots:
        return "false alarm"
    return "right" if healthy else "cannot tell"


def _is_tie(roots: list[Finding]) -> bool:
    return any("tie" in one.summary or "cannot be determined" in one.summary for one in roots)
