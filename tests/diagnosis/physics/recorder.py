"""A simulated job's recorders at one moment: dumps in NCCL's form, by each host's own clock.

How this works. A recorder does not see an operation's end: a watchdog looks every 100 ms and notes the time of its
look, and a dump looks once more. So times of completion have that grain, and what has ended since the last look is
completed and not retired. Starts are seen where timing is on. The ring keeps the newest entries.

Source: torch/csrc/distributed/c10d/FlightRecorder.cpp and ProcessGroupNCCL.cpp (2.13).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.diagnosis.physics.program import MS, SECOND
from tests.diagnosis.physics.running import Launched, Life
from tests.flightrec.synthetic import TORCH, pickled
from torchctl.flightrec.decoding.raw import RawDump

EPOCH_NS = 1_790_000_000 * SECOND
LOOK_NS = 100 * MS
TIMEOUT_NS = 600 * SECOND
_COPIED_AFTER_NS = [minutes * 60 * SECOND for minutes in (15, 60, 600, 6000)]


@dataclass(frozen=True, slots=True)
class Recorders:
    """How a job's recorders are set.

    Attributes:
        ring: entries that are kept.
        timing: starts are seen.
        clocks_ns: how far each rank's clock is ahead.
        looks_ns: when in its 100 ms each rank's watchdog looks.
        gives_up: watchdogs mark what is over its timeout as retired.
        copied_ns: when all files were copied, which is their time then; None: they were not.
    """

    ring: int
    timing: bool
    clocks_ns: Sequence[int]
    looks_ns: Sequence[int]
    gives_up: bool = False
    copied_ns: int | None = None


def recorders(world: int, random: Random) -> Recorders:
    """Return settings as jobs have them: one host or several, whose clocks differ by 1 ms to 2 minutes."""
    per_host = random.choice([world, 1, 2, 4])
    most = random.choice([0, 1 * MS, 30 * MS, 300 * MS, 2 * SECOND, 120 * SECOND])
    offsets = [random.randint(-most, most) for _ in range(world)]
    return Recorders(
        ring=random.choice([20, 60, 2000, 2000, 2000]),
        timing=random.random() < 0.3,
        clocks_ns=[offsets[rank // per_host] for rank in range(world)],
        looks_ns=[random.randrange(LOOK_NS) for _ in range(world)],
        gives_up=random.random() < 0.3,
        copied_ns=EPOCH_NS + random.choice(_COPIED_AFTER_NS) if random.random() < 0.1 else None,
    )


@dataclass(frozen=True, slots=True)
class File:
    """A dump before it is pickled, its rank, and its file's time."""

    rank: int
    data: dict[str, Any]
    written_ns: int

    def raw(self) -> RawDump:
        return RawDump(f"nccl_trace_rank_{self.rank}", self.rank, pickled(self.data), written_ns=self.written_ns)


def dump_of(life: Life, rank: int, now: int, settings: Recorders, start_ns: int = EPOCH_NS) -> File:
    """Return a rank's dump at `now`, nanoseconds since the job's start."""
    plan, clock = life.plan, start_ns + settings.clocks_ns[rank]
    used: list[str] = []
    entries = []
    op_ids: dict[str, int] = {}
    rows = [made for made in life.launched[rank] if made.created_ns <= now]
    status: dict[str, dict[str, int]] = {}
    for at, made in enumerate(rows):
        if made.group not in used:
            used.append(made.group)
        if not (made.is_p2p and made.end is not None and made.name == "coalesced"):
            op_ids[made.group] = op_ids.get(made.group, 0) + 1
        pg_id = used.index(made.group)
        seen = _seen(made, now, settings, settings.looks_ns[rank] + 7 * MS * pg_id, clock)
        _note(status.setdefault(str(pg_id), dict.fromkeys(_STATUS, -1)), made, now, settings)
        if at >= len(rows) - settings.ring:
            entries.append(_entry(made, at, pg_id, op_ids[made.group], plan.descriptions[made.group], clock) | seen)
    made_of = {
        name: {"name": name, "desc": plan.descriptions[name], "ranks": str(list(plan.groups[name]))}
        for name in plan.groups
        if name in used
    }
    data = {
        "version": "2.10",
        "pg_config": made_of,
        "pg_status": status,
        "comm_lib_version": "2.27.5",
        "entries": entries,
    }
    written_ns = now + clock + 3 * MS if settings.copied_ns is None else settings.copied_ns + rank * 2 * MS
    return File(rank, data, written_ns)


_STATUS = ("last_enqueued_collective", "last_started_collective", "last_completed_collective")


def _note(status: dict[str, int], made: Launched, now: int, settings: Recorders) -> None:
    """Move a group's status on: the watchdog keeps it, so it may be a look behind."""
    if made.end is None:
        return
    enqueued, started, completed = _STATUS
    status[enqueued] = made.seq
    if settings.timing and made.ready.by(now - LOOK_NS):
        status[started] = made.seq
    if made.end.by(now - LOOK_NS):
        status[completed] = made.seq


def _seen(made: Launched, now: int, settings: Recorders, phase_ns: int, clock: int) -> dict[str, Any]:
    """Return what a recorder has seen of the course of an operation."""
    begun = settings.timing and made.end is not None and made.ready.by(now)
    state: dict[str, Any] = {
        "state": "started" if begun else "scheduled",
        "time_discovered_started_ns": now + clock if begun else None,
        "time_discovered_completed_ns": None,
        "retired": False,
    }
    if made.end is None:
        return state
    if not made.end.by(now):
        state["retired"] = settings.gives_up and now - made.created_ns > TIMEOUT_NS
        return state
    assert made.end.at is not None
    look = phase_ns + -(-(made.end.at - phase_ns) // LOOK_NS) * LOOK_NS
    seen_ns = min(look, now) + clock
    state |= {"state": "completed", "time_discovered_completed_ns": seen_ns, "retired": look <= now}
    if settings.timing:
        state |= {"time_discovered_started_ns": seen_ns, "duration_ms": (made.end.at - (made.ready.at or 0)) / MS}
    return state


def _entry(made: Launched, record_id: int, pg_id: int, op_id: int, desc: str, clock: int) -> dict[str, Any]:
    types = [made.dtype]
    return {
        "frames": _frames(made),
        "record_id": record_id,
        "pg_id": pg_id,
        "process_group": (made.group, desc),
        "collective_seq_id": 0 if made.is_p2p else made.seq,
        "p2p_seq_id": made.seq if made.is_p2p else 0,
        "op_id": op_id,
        "profiling_name": f"nccl:{made.name}",
        "time_created_ns": made.created_ns + clock,
        "input_sizes": [list(sizes) for sizes in made.inputs],
        "input_dtypes": types * len(made.inputs),
        "output_sizes": [list(sizes) for sizes in made.outputs],
        "output_dtypes": types * len(made.outputs),
        "timeout_ms": TIMEOUT_NS // MS,
        "is_p2p": made.is_p2p,
    }


def _frames(made: Launched) -> list[dict[str, Any]]:
    call = made.name.partition(" ")[0].lstrip("_")
    return [
        {"name": call, "filename": f"{TORCH}/distributed_c10d.py", "line": 2800},
        {"name": "wrapper", "filename": f"{TORCH}/c10d_logger.py", "line": 81},
        {"name": made.line.function, "filename": "/job/pretrain.py", "line": made.line.number},
        {"name": "<module>", "filename": "/job/pretrain.py", "line": 400},
    ]
