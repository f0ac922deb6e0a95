"""What stacks alone show, if no recorder's entry proves more: who is elsewhere, and which calls cannot meet.

How this works. Processes in the same place are one side. If all but a few are on one side and may be waiting there,
they may be waiting for the others. If two sides are both in torch.distributed calls, neither need be at fault: both are
shown, and only a process that is alone among many is named. Stacks show neither the group of a call nor how long it has
lasted, so nothing here is ever certain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torchctl.diagnosis.findings.words import joined, place_words, ranks_of
from torchctl.diagnosis.model import Collective, Confidence, Finding, Kind, ProcessName
from torchctl.diagnosis.waits.activity import Doing
from torchctl.diagnosis.waits.standing import Standing, clusters_of, parting

_MOST_SIDES = 4  # that are shown
_MOST_NAMES = 4
_CANNOT_MEET = "these calls cannot meet"
_SENT_TO = "a stack does not show the other end of a send or recv: the call's arguments or dumps would show it"


@dataclass(slots=True)
class FromStacks:
    """What stacks alone show: a finding, or what is not known, in words."""

    findings: list[Finding] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def from_stacks(standings: Sequence[Standing], *, live: bool) -> FromStacks:
    """Return what the stacks of a job without recorded entries show.

    Args:
        live: the stacks come from two looks at running workers, whose own code changes between looks, so only processes
            in a torch.distributed call count as waiting.
    """
    if len(standings) < 2:
        return FromStacks()
    sides = clusters_of(standings)
    if len(sides) == 1:
        return FromStacks(unknown=[_all_alike(sides[0])])
    most, rest = sides[0], [one for side in sides[1:] for one in side]
    if all(one.activity.call for one in standings):
        return _in_calls(sides, most, rest, live)
    if _may_wait(most[0], live) and len(most) > 1 and _are_few(most, rest, sides):
        return FromStacks([_elsewhere("stack_outlier", most, rest, live)])
    return FromStacks(unknown=[_sides(sides)])


def _may_wait(one: Standing, live: bool) -> bool:
    return bool(one.activity.call) or (not live and (one.waits or one.activity.doing is Doing.UNCLEAR))


def _are_few(most: list[Standing], rest: list[Standing], sides: Sequence[list[Standing]]) -> bool:
    """Whether those elsewhere are few enough to stand out: one, or a quarter in one place; none in a send or recv."""
    if any(one.activity.is_p2p for one in rest):
        return False
    if len(rest) == 1:
        return True
    in_calls = any(one.activity.call for one in rest)
    return len(sides) == 2 and len(rest) * 3 <= len(most) and not in_calls and not most[0].activity.is_p2p


def _in_calls(sides: Sequence[list[Standing]], most: list[Standing], rest: list[Standing], live: bool) -> FromStacks:
    """Return what is known about processes that are all in torch.distributed, in different calls."""
    p2p = any(one.activity.is_p2p for side in sides for one in side)
    if len(rest) == 1 and len(most) > 1 and not p2p:
        kind: Kind = "op_mismatch" if rest[0].activity.call != most[0].activity.call else "stack_outlier"
        return FromStacks([_elsewhere(kind, most, rest, live)])
    said = _sides(sides)
    calls = {side[0].activity.call for side in sides}
    if len(calls) > 1:
        said += f": {_CANNOT_MEET}, and {_SENT_TO if p2p else 'stacks do not show which of them is wrong'}"
    else:
        said += "; they are in the same call, made in different places, and stacks do not show which of them is wrong"
    return FromStacks(unknown=[said])


def _elsewhere(kind: Kind, most: list[Standing], rest: list[Standing], live: bool) -> Finding:
    """Return the finding about the few processes that are elsewhere while the others are in one place."""
    first, other = rest[0], most[0]
    summary = f"{who(rest)} {_is(rest)} in {first.what}, while {who(most)} {_is(most)} in {other.what}"
    if kind == "op_mismatch":
        summary += f": {_CANNOT_MEET}"
    prompts = sorted({one.activity.prompt for one in rest if one.activity.prompt})
    if prompts:
        summary += f"; {who([one for one in rest if one.activity.prompt])} {_is(rest)} at a debugger's prompt"
        summary += f" ({', '.join(prompts)})"
    outside = not any(one.activity.call for one in rest)
    confidence: Confidence = "likely" if other.waits and (len(most) > 2 or outside) else "possible"
    evidence = [f"{len(most)} of {len(most) + len(rest)} stacks are in one place, and {len(rest)} elsewhere"]
    evidence += _parting([*rest, *most])
    evidence += [f"another thread of {who([one])} is in {place_words(at)}" for one in rest[:2] for at in one.beside[:2]]
    if not live:
        evidence.append("the stacks are of one moment: a second set would show whether any of these moves")
    call = other.activity.call
    collective = Collective(call, None, other.activity.is_p2p, (), (), "") if call else None
    return Finding(
        kind,
        confidence,
        summary,
        _ranks(rest),
        _ranks(most),
        None,
        collective,
        first.activity.location,
        evidence,
        culprit_processes=_processes(rest),
        waiting_processes=_processes(most),
    )


def elsewhere_too(finding: Finding, standings: Sequence[Standing]) -> list[str]:
    """Return which processes without a rank are elsewhere, if a finding names as many ranks as there are of them."""
    nameless = [one for one in standings if one.process is not None]
    if not finding.culprit_ranks or any(one.rank in finding.culprit_ranks for one in standings):
        return []
    for found in from_stacks(nameless, live=False).findings:
        rest = [one for one in nameless if one.process in found.culprit_processes]
        if len(rest) == len(finding.culprit_ranks):
            return [
                f"of the {len(nameless)} processes whose rank is not known, {who(rest)} {_is(rest)} elsewhere than the"
                f" others: in {rest[0].what}"
            ]
    return []


def _all_alike(side: list[Standing]) -> str:
    """Return what can be said about processes that are all in one place."""
    one = side[0]
    if one.activity.is_p2p:
        return f"all {len(side)} stacks are in {one.what}: none of these is elsewhere, and {_SENT_TO}"
    if one.waits:
        return (
            f"all {len(side)} stacks are in {one.what}: none of these is elsewhere, so what they wait for is the"
            " device, the network, or a rank whose stack is not among them"
        )
    return (
        f"all {len(side)} stacks are in {one.what}, which is not a torch.distributed call: a second set of stacks would"
        " show whether they move"
    )


def _sides(sides: Sequence[list[Standing]]) -> str:
    """Return who is where: the largest places, and how many more there are."""
    said = [f"{who(side)} {_is(side)} in {side[0].what}" for side in sides[:_MOST_SIDES]]
    left = [one for side in sides[_MOST_SIDES:] for one in side]
    if left:
        said.append(f"{len(left)} more are in {len(sides) - _MOST_SIDES} other places")
    return joined(said)


def _parting(standings: Sequence[Standing]) -> list[str]:
    """Return the call below which the stacks diverge."""
    frame = parting(standings)
    if frame is None:
        return []
    return [f"the stacks diverge below {frame.bare}, {frame.file}:{frame.line}"]


def who(standings: Sequence[Standing]) -> str:
    """Return "rank 3", "ranks 0-2,4-7" or "node-8 pid 4020", or several of them."""
    ranks, names = _ranks(standings), [one.process.name for one in standings if one.process is not None]
    said = [ranks_of(ranks)] if ranks else []
    if len(names) > _MOST_NAMES:
        said.append(f"{len(names)} processes")
    elif names:
        said.append(", ".join(names))
    return " and ".join(said)


def _is(standings: Sequence[Standing]) -> str:
    return "is" if len(standings) == 1 else "are"


def _ranks(standings: Sequence[Standing]) -> tuple[int, ...]:
    return tuple(one.rank for one in standings if one.rank is not None)


def _processes(standings: Sequence[Standing]) -> tuple[ProcessName, ...]:
    return tuple(one.process for one in standings if one.process is not None)
