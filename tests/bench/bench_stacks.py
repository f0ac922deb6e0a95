"""Merging the stacks of a whole job: 4,096 and 16,384 ranks of 60 frames, from text to the screen, on one core."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from torchctl.render.spans import plain
from torchctl.render.tree import TreeStyle, tree_lines
from torchctl.stacks.merge import Worker, merge
from torchctl.stacks.reader import StackReader

_FRAMES = 60
_OTHERS = 6  # threads beside the main one


def dump(rank: int, variant: int) -> bytes:
    """Return a rank's text: addresses differ always, the stack by its variant."""
    address = random.Random(rank).getrandbits(46)
    torch = "/opt/venv/lib/python3.11/site-packages/torch/nn/modules/module.py"
    parts = []
    for thread in range(_OTHERS, -1, -1):
        name = "MainThread" if thread == 0 else f"Thread-{thread} (_pin_memory_loop)"
        parts.append(f"Thread 0x{address + thread * 4096:016x} [{name}] (most recent call first):")
        for depth in range(_FRAMES if thread == 0 else 8, 0, -1):
            file = torch if depth % 3 else "/home/ada/project/model.py"
            line = 100 + depth + (variant if depth == 40 and thread == 0 else 0)
            parts.append(f'  File "{file}", line {line} in forward{depth}')
        parts.append("")
    return "\n".join(parts).encode()


def measure(ranks: int, distinct: int) -> None:
    """Print what one case takes, in this process."""
    texts = [dump(rank, rank % distinct) for rank in range(ranks)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    reader = StackReader()
    merged = merge(Worker(rank, reader.read(text)) for rank, text in enumerate(texts))
    lines = [plain(line) for line in tree_lines(merged, TreeStyle(200))]
    took = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = sum(map(len, texts)) / 1e6
    print(
        f"{ranks:>6} ranks  {distinct:>5} distinct  {size:>6.0f} MB of text  {took:>6.2f} s  {len(lines):>6} lines  "
        f"{(peak - before) / 1024:>5.0f} MB more, {peak / 1024:>5.0f} MB in all",
        flush=True,
    )


def main() -> None:
    if len(sys.argv) == 3:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        measure(int(sys.argv[1]), int(sys.argv[2]))
        return
    for ranks, distinct in ((4096, 1), (4096, 4), (4096, 64), (4096, 4096), (16384, 4), (16384, 64), (16384, 1024)):
        subprocess.run([sys.executable, __file__, str(ranks), str(distinct)], check=True)


if __name__ == "__main__":
    main()
