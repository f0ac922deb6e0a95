"""`make verdicts`: thousands of simulated jobs, each diagnosed from its dumps, and a table of how right that was.

Usage: python -m tests.diagnosis.physics.verdicts [--healthy N] [--faulty N] [--kind NAME] [--first SEED] [--show N]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

from tests.diagnosis.physics.score import BAD, RESULTS, Result, score
from tests.diagnosis.physics.situations import KINDS, MOMENTS, Situation, situations
from tests.diagnosis.physics.table import trace_of
from torchctl.diagnosis.diagnose import diagnose
from torchctl.diagnosis.evidence import Evidence
from torchctl.diagnosis.model import Diagnosis

_AT_ONCE = 50  # seeds that a process takes


def judged(situation: Situation) -> tuple[Result, Diagnosis]:
    """Return how right the diagnosis of a situation is, and the diagnosis."""
    found = diagnose(Evidence(trace_of(situation.files)))
    return score(situation, found), found


def of_seeds(kind: str, seeds: Sequence[int]) -> tuple[Counter[Result], list[str]]:
    """Return the results of some seeds, and a line on each bad one."""
    results: Counter[Result] = Counter()
    bad = []
    for seed in seeds:
        for place, situation in enumerate(situations(kind, seed)):
            result, found = judged(situation)
            results[result] += 1
            if result in BAD:
                bad.append(f"{kind} {seed}.{place}: {result}: {situation.told}\n    {found.verdict}")
    return results, bad


def table(rows: dict[str, Counter[Result]]) -> Iterator[str]:
    """Yield the lines of the table: a kind of situation in each, a result in each column."""
    widths = [max(len(result), 6) for result in RESULTS]
    first = max(len(kind) for kind in rows)
    yield f"{'kind':{first}}  {'tried':>6}  " + "  ".join(f"{r:>{w}}" for r, w in zip(RESULTS, widths, strict=True))
    for kind, results in rows.items():
        counts = (f"{results[r]:>{w}}" for r, w in zip(RESULTS, widths, strict=True))
        yield f"{kind:{first}}  {sum(results.values()):>6}  " + "  ".join(counts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the situations on all processors, print the table; return 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--healthy", type=int, default=10_000, help="looks at healthy jobs; a fifth as many of copied files"
    )
    parser.add_argument("--faulty", type=int, default=1_000, help="faulty jobs of each kind")
    parser.add_argument("--kind", action="append", choices=KINDS)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--show", type=int, default=0, help="bad verdicts of each kind to print")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    rows: dict[str, Counter[Result]] = {}
    with ProcessPoolExecutor(options.jobs) as pool:
        running = {}
        for kind in options.kind or KINDS:
            healthy = kind.startswith("healthy")
            looks = options.healthy // 5 if kind == "healthy, copied" else options.healthy
            count = -(-looks // MOMENTS) if healthy else options.faulty
            seeds = range(options.first, options.first + count)
            parts = [seeds[at : at + _AT_ONCE] for at in range(0, count, _AT_ONCE)]
            running[kind] = [pool.submit(of_seeds, kind, part) for part in parts]
        for kind, parts_running in running.items():
            rows[kind] = Counter()
            shown = options.show
            for part in parts_running:
                results, bad = part.result()
                rows[kind] += results
                for line in bad[:shown]:
                    print(line)
                shown -= min(shown, len(bad))
    print(*table(rows), sep="\n")
    print(f"{sum(sum(results.values()) for results in rows.values())} verdicts in {time.monotonic() - begun:.0f} s")
    missed = list(goals_missed(rows))
    print(*missed, sep="\n")
    return 1 if missed else 0


def goals_missed(rows: dict[str, Counter[Result]]) -> Iterator[str]:
    """Yield, in words, each goal that the results miss."""
    # Without the files' own times nothing distinguishes a job's first moments, or a wait for rank 0, from a hang.
    healthy = [results for kind, results in rows.items() if kind.startswith("healthy") and "copied" not in kind]
    faulty = [results for kind, results in rows.items() if not kind.startswith("healthy")]
    for result in ("innocent named", "innocent certain", "false alarm", "does not end"):
        if count := sum(results[result] for results in healthy):
            yield f"missed: {count} healthy jobs: {result}"
    tried = sum(sum(results.values()) for results in faulty)
    if certain := sum(results["innocent certain"] for results in faulty):
        yield f"missed: {certain} innocents are named as certain"
    innocent = sum(results["innocent named"] + results["innocent certain"] for results in faulty)
    if innocent * 200 > tried:
        yield f"missed: an innocent is named in {innocent} of {tried} faulty jobs, more than 1 in 200"
    if called := sum(results["hang called healthy"] for results in faulty):
        yield f"missed: {called} hangs are called healthy"


if __name__ == "__main__":
    sys.exit(main())
