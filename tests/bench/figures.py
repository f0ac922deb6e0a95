"""What the benches share: medians with their spread, sides measured in turns, one line a figure."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def in_turns(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run every side once per round, so that a busy moment of the machine falls on all of them."""
    for side in sides.values():
        side()  # fills caches
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            times[name].append(side())
    return times


def timed(function: Callable[[], object]) -> float:
    """Return how many milliseconds a call takes."""
    began = time.perf_counter()
    function()
    return (time.perf_counter() - began) * 1000


def report(title: str, times: Mapping[str, list[float]], unit: str = "ms", base: str | None = None) -> None:
    """Print median and spread of every side, and the ratio of each to `base`: the median of the rounds' ratios."""
    base = base or next(iter(times))
    print(title)
    for name, values in times.items():
        low, *_, high = statistics.quantiles(values, n=20)
        line = f"  {name:32} median {statistics.median(values):9.3f} {unit}   5-95 %: {low:.3f} to {high:.3f}"
        if name != base:
            ratios = [mine / theirs for mine, theirs in zip(values, times[base], strict=True)]
            line += f"   ratio to {base}: {statistics.median(ratios):.2f}"
        print(line, flush=True)
