"""What `certain` requires, by kind of finding: evidence with no other explanation. The guide shows the same table.

Every finding that can be certain asks this module. Nothing outside of the table is ever certain: ages by a file's time,
launch orders, counts and call sites all leave another explanation.
"""

from __future__ import annotations

from collections.abc import Mapping

from torchctl.diagnosis.model import DEATHS, Confidence

CERTAIN: Mapping[str, str] = {
    "not_entered": (
        "the dumps state the members of the group; the rank's own dump shows the group and ends before the operation;"
        " more members are inside than outside; and a watchdog gave up on it, a rank inside shows events of its"
        " own 30 s later, or two looks and the rank's stack agree; the rank neither moves nor computes, and"
        " is inside no operation that others have finished; and no rank"
        " leaves the operation before all have entered it, or the rank is the one that all in it receive from"
    ),
    "op_mismatch, shape_mismatch, dtype_mismatch": (
        "most members show one call at that sequence id, the named ones show another, and the members whose dumps do"
        " not show it are too few to change the majority"
    ),
    "bad_file": "the file itself",
}
NEVER = (
    "order_cycle",
    "p2p_mismatch",
    "rank_lost",
    "stuck_running",
    "straggler",
    "stack_outlier",
    "timed_out",
    *DEATHS,
)


def of_absence(
    *, members_stated: bool, shown: bool, most_inside: bool, hangs: bool, active: bool, needed: bool
) -> Confidence:
    """Return how sure it is that ranks which have not entered an operation keep others waiting.

    Args:
        members_stated: the dumps state who the members are.
        shown: the ranks' own dumps show the group.
        most_inside: more members are inside than outside.
        hangs: a watchdog, later events of a rank inside, or two looks and stacks prove more than a passing moment.
        active: a rank has moved or used CPU time between two looks.
        needed: the operation ends for no rank without these.
    """
    proven = members_stated and shown and most_inside and hangs and needed
    return "certain" if proven and not active else "likely"


def of_disagreement(*, majority: bool) -> Confidence:
    """Return how sure it is which side is wrong.

    Args:
        majority: most members show one call, and those whose dumps do not show it could not change that.
    """
    return "certain" if majority else "likely"
