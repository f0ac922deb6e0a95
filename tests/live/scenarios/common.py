"""What every scenario uses: its rank, its marker, and steps of training."""

from __future__ import annotations

import os
import time
from typing import NoReturn

import torch
import torch.distributed as dist

FOLDER = os.environ.get("FOLDER", "")
RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
DAY_S = 86400.0


def mark() -> None:
    """Show the test that this rank is now where its scenario wants it."""
    with open(os.path.join(FOLDER, f"at-{RANK}"), "w", encoding="utf-8"):
        pass


def block() -> NoReturn:
    """Stay in the rank's own code."""
    mark()
    while True:
        time.sleep(DAY_S)


def step(group: dist.ProcessGroup | None = None, size: int = 8) -> None:
    dist.all_reduce(torch.ones(size), group=group)


def warm_up() -> None:
    for _ in range(3):
        step()
    dist.barrier()
