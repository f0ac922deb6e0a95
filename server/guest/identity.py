"""Who this process is: rank, world size, host, job."""

from __future__ import annotations

import os

from torchctl import protocol
from torchctl.protocol.launchers import JobPlace, job_in, place_in
from torchctl.server.guest import step, torchlink


def place() -> JobPlace:
    """Return rank, local rank and world size: torch.distributed's, else the launcher's."""
    rank, local_rank, world_size = place_in(os.environ)
    dist = torchlink.distributed()
    if dist is not None:
        try:
            rank, world_size = int(dist.get_rank()), int(dist.get_world_size())
        except Exception:  # destroyed between the question and the answer
            pass
    return JobPlace(rank, local_rank, world_size)


def job_id() -> str | None:
    """Return the job's id: the launcher's own, else the rendezvous address that its ranks share."""
    return job_in(os.environ)


def header_lines() -> list[str]:
    """Return the lines that tell, in the head of every answer, whose it is; what is not known is left out."""
    where = place()
    job = job_id()
    last = step.last
    fields: list[tuple[str, object]] = [
        (protocol.RANK_HEADER, where.rank),
        (protocol.WORLD_SIZE_HEADER, where.world_size),
        (protocol.JOB_HEADER, job if job and job.isascii() and job.isprintable() else None),
        (protocol.STEP_HEADER, last[0] if last is not None and type(last[0]) is int else None),
    ]
    return [f"{name}: {value}" for name, value in fields if value is not None]
