"""Which ranks are missing at a barrier that timed out: computed by one of the waiting ranks, shown by all.

How this works: every waiting rank leaves a trace key. At the timeout each reads how many have arrived and adds to a key
named after that number; the first one computes and publishes the report, the others wait for it. A rank that arrives
in between changes the number, so no rank ever reads a stale report. If the reporter dies, the others choose a second
one after `trace_timeout` and half a second. Rank 0 also opens torch's own gate, so that ranks inside torch's function
go on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from torchctl.ranks import fold_ranks, parse_ranks
from torchctl.storeutil.interface import LookingStore
from torchctl.storeutil.keys import (
    IGNORED,
    NUM_MEMBERS,
    REPORT,
    REPORTER,
    TRACE,
    TRACING_GATE,
    WORLD_SIZE,
)
from torchctl.storeutil.waiting import Deadline, absent_keys, read_counter, wait_slice

GRACE_S = 0.5  # after trace_timeout, how long to wait for the report before another rank makes one
FIRST_PAUSE_S = 0.02
LAST_PAUSE_S = 0.25


@dataclass(frozen=True, slots=True)
class MissingRanks:
    """What the traces of a barrier show.

    Attributes:
        world_size: ranks expected.
        arrived: the barrier's counter.
        untraced: ranks that left no trace, ascending. They outnumber the missing ranks if some ranks arrived
            without leaving their rank.
    """

    world_size: int
    arrived: int
    untraced: list[int]

    @property
    def anonymous(self) -> int:
        """How many of the untraced ranks have arrived after all; which ones is unknown."""
        return max(0, self.arrived + len(self.untraced) - self.world_size)

    def names(self, decoder: Callable[[int], str] | None) -> str:
        """Return the ranks for a message: ``3,17-24,900``, or the decoder's texts, with equal ones merged."""
        if decoder is None:
            return fold_ranks(self.untraced)
        by_text: dict[str, list[int]] = {}
        for rank in self.untraced:
            by_text.setdefault(decoder(rank), []).append(rank)
        return ", ".join(
            text if len(ranks) == 1 else f"{text} ({fold_ranks(ranks)})" for text, ranks in by_text.items()
        )

    def encode(self) -> str:
        return json.dumps({"n": self.world_size, "arrived": self.arrived, "untraced": fold_ranks(self.untraced)})

    @classmethod
    def decode(cls, data: bytes) -> MissingRanks:
        """Return the report that a peer published.

        Raises:
            ValueError: it is not a report.
        """
        try:
            raw = json.loads(data)
            untraced = parse_ranks(raw["untraced"]) if raw["untraced"] else []
            return cls(int(raw["n"]), int(raw["arrived"]), untraced)
        except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"no report of missing ranks: {data[:80]!r}") from error


def leave_trace(store: LookingStore, key_prefix: str, world_size: int, rank: int | None) -> None:
    """Write that `rank` has arrived (unless None), and how many ranks it expects."""
    store.set(f"{key_prefix}{WORLD_SIZE}", str(world_size))
    if rank is not None:
        store.set(f"{key_prefix}{rank}{TRACE}", IGNORED)


def look(store: LookingStore, key_prefix: str, world_size: int) -> MissingRanks:
    """Return what the traces show now, in at most O(world size), without waiting."""
    untraced = _untraced(store, key_prefix, list(range(world_size)))
    return MissingRanks(world_size, read_counter(store, key_prefix + NUM_MEMBERS), untraced)


def missing_ranks(
    store: LookingStore, key_prefix: str, world_size: int, rank: int, trace_timeout_s: float
) -> MissingRanks | None:
    """Return the report on a barrier that timed out, made by this or another waiting rank.

    Args:
        rank: our rank, which must have left its trace.
        trace_timeout_s: how long to wait for the traces of ranks that have arrived.

    Returns:
        None if neither of two reporters produced one.
    """
    arrived = read_counter(store, key_prefix + NUM_MEMBERS)
    report_key = f"{key_prefix}{REPORT}{arrived}"
    reporter_key = f"{key_prefix}{REPORTER}{arrived}"
    report: MissingRanks | None = None
    if store.add(reporter_key, 1) == 1:
        report = _collect(store, key_prefix, world_size, trace_timeout_s)
        store.set(report_key, report.encode())
    elif wait_slice(store, [report_key], trace_timeout_s + GRACE_S):
        report = MissingRanks.decode(store.get(report_key))
    elif store.add(reporter_key + "/second", 1) == 1:
        report = look(store, key_prefix, world_size)
        store.set(report_key, report.encode())
    elif wait_slice(store, [report_key], GRACE_S):
        report = MissingRanks.decode(store.get(report_key))
    if rank == 0:
        store.set(key_prefix + TRACING_GATE, IGNORED)
    return report


def _collect(store: LookingStore, key_prefix: str, world_size: int, trace_timeout_s: float) -> MissingRanks:
    """Return the report once every rank that has arrived has left its trace, or at the timeout."""
    deadline = Deadline(trace_timeout_s)
    untraced = list(range(world_size))
    pause_s = FIRST_PAUSE_S
    while True:
        untraced = _untraced(store, key_prefix, untraced)
        report = MissingRanks(world_size, read_counter(store, key_prefix + NUM_MEMBERS), untraced)
        if not report.anonymous or deadline.passed:
            return report
        time.sleep(min(pause_s, deadline.remaining_s))
        pause_s = min(pause_s * 2, LAST_PAUSE_S)


def _untraced(store: LookingStore, key_prefix: str, ranks: list[int]) -> list[int]:
    keys = [f"{key_prefix}{rank}{TRACE}" for rank in ranks]
    rank_of = dict(zip(keys, ranks, strict=True))
    return [rank_of[key] for key in absent_keys(store, keys)]
