"""Ranks that others wait for and that compute: their share of a core between two looks, and whether they get on.

How this works. A rank whose thread has used CPU time between the looks is not stuck in a wait, and it may be late by
right: an evaluation on rank 0, a long step. Only such ranks are sampled, a few times in a row.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from torchctl.diagnosis.evidence import Computing
from torchctl.stacks.advance import Path, goes_on, path_of
from torchctl.stacks.reader import StackReader
from torchctl.workers.ask.outcome import is_stopped
from torchctl.workers.ask.reply import Reply
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.outside import stacks_question
from torchctl.workers.questions.look import Sight
from torchctl.workers.roll import Roll
from torchctl.workers.survey import survey

_LEAST_SHARE = 0.005  # of a core: what waits uses less, and a crowded machine may leave a busy rank little more
_BUSY_SHARE = 0.03  # of a core: what polls a hundred times a second uses less
_MAX_RANKS = 16  # that are sampled
_SAMPLES = 8
_PAUSE_S = 0.02


def cpu_share(before: Sight, after: Sight) -> float | None:
    """Return which share of a core a rank's main thread has used between two looks; None if that is not known."""
    first, second = before.calls, after.calls
    if first is None or second is None or first.main is None or second.main is None or second.time <= first.time:
        return None
    if first.main.cpu_ns is None or second.main.cpu_ns is None or first.pid != second.pid:
        return None
    return max(0.0, (second.main.cpu_ns - first.main.cpu_ns) / 1e9 / (second.time - first.time))


def watch_computing(
    looks: Mapping[int, tuple[Sight, Sight]],
    endpoints: Mapping[int, Endpoint],
    stacks: Mapping[int, Reply],
    roll: Roll,
    until: float,
) -> dict[int, Computing]:
    """Sample those ranks that compute, and return what they do.

    Args:
        looks: the two looks at each rank that others wait for.
        endpoints, stacks: of all ranks.
        until: when to stop, `time.monotonic` seconds.
    """
    shares = {rank: share for rank, two in looks.items() if (share := cpu_share(*two) or 0.0) >= _LEAST_SHARE}
    if not shares:
        return {}
    sampled = list(shares)[:_MAX_RANKS]
    paths = _paths({rank: endpoints[rank] for rank in sampled}, stacks, roll, until)
    working = {rank: goes_on(paths[rank]) for rank in sampled}
    rest = all(working.values())  # of those that were not sampled
    found = {rank: Computing(share, working.get(rank, rest)) for rank, share in shares.items()}
    return {rank: one for rank, one in found.items() if one.goes_on or one.cpu_share >= _BUSY_SHARE}


def _paths(
    endpoints: Mapping[int, Endpoint], stacks: Mapping[int, Reply], roll: Roll, until: float
) -> dict[int, list[Path]]:
    """Return where the ranks' threads are in each sample, that of the second look first."""
    asked, read = roll.only(list(endpoints.values())), StackReader().read
    ranks = {str(one): rank for rank, one in endpoints.items()}
    bodies = [(rank, stacks[rank].body) for rank in endpoints if rank in stacks]
    for _ in range(_SAMPLES):
        time.sleep(_PAUSE_S)
        if time.monotonic() >= until:
            break
        outcomes = survey(asked.until(until), stacks_question()).outcomes
        if is_stopped(outcomes):
            break
        for one in outcomes:
            rank = ranks.get(str(one.endpoint))  # a relay answers for its whole host
            if rank is not None and one.value is not None:
                bodies.append((rank, one.value.body))
    found: dict[int, list[Path]] = {rank: [] for rank in endpoints}
    for rank, body in bodies:
        try:
            found[rank].append(path_of(read(body)))
        except ValueError:
            continue
    return found
