"""Who this process is: rank, world size, host, job."""

from __future__ import annotations

import os
from typing import NamedTuple

from torchctl import protocol
from torchctl.server import step, torchlink

# One row per launcher: rank, local rank, world size. The first row whose rank is set speaks for all three.
_LAUNCHERS = (
    ("RANK", "LOCAL_RANK", "WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "MPI_LOCALRANKID", "PMI_SIZE"),
)
_JOB_VARIABLES = ("TORCHCTL_JOB_ID", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")


class Place(NamedTuple):
    """Where a process stands in its job; None is unknown, never a guess."""

    rank: int | None
    local_rank: int | None
    world_size: int | None


def place() -> Place:
    """Return rank, local rank and world size: torch.distributed's, else the launcher's."""
    rank, local_rank, world_size = _from_environment()
    dist = torchlink.distributed()
    if dist is not None:
        try:
            rank, world_size = int(dist.get_rank()), int(dist.get_world_size())
        except Exception:  # destroyed between the question and the answer
            pass
    return Place(rank, local_rank, world_size)


def job_id() -> str | None:
    """Return the job's id: the launcher's own, else the rendezvous address that its ranks share."""
    for name in _JOB_VARIABLES:
        value = os.environ.get(name)
        if value and value != "none":  # torchrun's default run id is the word "none"
            return value
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    return f"{address}:{port}" if address and port else None


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


def _from_environment() -> Place:
    for names in _LAUNCHERS:
        values = [_whole_number(os.environ.get(name)) for name in names]
        if values[0] is not None:
            return Place(*values)
    return Place(None, _whole_number(os.environ.get("LOCAL_RANK")), None)


def _whole_number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else None
