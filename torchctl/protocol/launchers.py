"""Environment variables that launchers set for a rank: torchrun, Slurm, Open MPI, MPICH. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torchctl.protocol.identity import parse_number

# One row per launcher: rank, local rank, world size. All three come from the first row whose rank is set.
_LAUNCHERS = (
    ("RANK", "LOCAL_RANK", "WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "MPI_LOCALRANKID", "PMI_SIZE"),
)
_JOB_VARIABLES = ("TORCHCTL_JOB_ID", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")


class JobPlace(NamedTuple):
    """A process's place in its job; None means unknown, never a guess."""

    rank: int | None
    local_rank: int | None
    world_size: int | None


def place_in(environment: Mapping[str, str]) -> JobPlace:
    """Return rank, local rank and world size as the launcher set them."""
    for rank_name, *others in _LAUNCHERS:
        rank = parse_number(environment.get(rank_name))
        if rank is not None:
            local_rank, world_size = (parse_number(environment.get(name)) for name in others)
            return JobPlace(rank, local_rank, world_size)
    return JobPlace(None, parse_number(environment.get("LOCAL_RANK")), None)


def job_in(environment: Mapping[str, str]) -> str | None:
    """Return the job's id: the launcher's, or else the rendezvous address that its ranks share."""
    for name in _JOB_VARIABLES:
        value = environment.get(name)
        if value and value != "none":  # torchrun's default run id is the word "none"
            return value
    address, port = environment.get("MASTER_ADDR"), environment.get("MASTER_PORT")
    return f"{address}:{port}" if address and port else None


def attempt_in(environment: Mapping[str, str]) -> int | None:
    """Return how often torchrun has restarted the job's ranks; None under another launcher."""
    return parse_number(environment.get("TORCHELASTIC_RESTART_COUNT"))
