"""Ranks in an endless all_reduce, until one of them ends as HOW says once the file `go` exists in FOLDER."""

import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from torchctl.server.guest.sharing import sentinel_pid

GUILTY = 2


def end(how: str) -> None:
    if how == "raise":
        raise ValueError("no rows left in shard 7")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.exit(int(how))


def main() -> None:
    folder = Path(os.environ["FOLDER"])
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    dist.all_reduce(torch.ones(4))
    while sentinel_pid() is None:
        time.sleep(0.01)
    (folder / f"at-{rank}").touch()
    while rank == GUILTY and not (folder / "go").exists():
        time.sleep(0.01)
    if rank == GUILTY:
        end(os.environ["HOW"])
    dist.all_reduce(torch.ones(4))


main()
