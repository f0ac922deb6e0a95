"""Who this process is: rank, world size, host, job."""

from __future__ import annotations

import os

from torchctl.protocol.identity import Identity
from torchctl.protocol.launchers import JobPlace, attempt_in, job_in, place_in
from torchctl.server.guest import step, torchlink


def place() -> JobPlace:
    """Return rank, local rank and world size, from torch.distributed or else from the launcher."""
    rank, local_rank, world_size = place_in(os.environ)
    dist = torchlink.distributed()
    if dist is not None:
        try:
            rank, world_size = int(dist.get_rank()), int(dist.get_world_size())
        except Exception:  # destroyed since `distributed` looked
            pass
    return JobPlace(rank, local_rank, world_size)


def job_id() -> str | None:
    """Return the job's id: the launcher's, else the rendezvous address that the job's ranks share."""
    return job_in(os.environ)


def attempt() -> int | None:
    """Return how often torchrun has restarted this job's ranks; None under another launcher."""
    return attempt_in(os.environ)


def of_process(pid: int) -> Identity:
    """Return the identity that this process, whose pid is `pid`, sends in the head of every answer."""
    where, last = place(), step.last
    reported = last[0] if last is not None and type(last[0]) is int else None
    return Identity(where.rank, pid, where.world_size, job_id(), reported)
