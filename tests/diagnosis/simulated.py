"""A simulated job: ranks run a program over process groups, and its recorders' dumps in NCCL's format.

How this works. Every rank has a list of instructions. A collective ends when all its members have come to it with the
same sequence id; a send ends with its recv. Ranks are run until nobody can go on; whoever has not come to its
end is in an open operation. Faults are changes to one rank's list, so the truth is known and not computed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests.flightrec.synthetic import BASE_NS, TORCH, as_json, pickled
from torchctl.flightrec.decoding.raw import RawDump

STEP_NS = 1_000_000


@dataclass(frozen=True)
class Step:
    """One instruction: a collective of `group`, or a send (recv) to (from) `peer`; `at` is its place in the program."""

    group: str
    op: str
    size: int = 16
    dtype: str = "Float"
    peer: int | None = None
    at: int = 0
    late_ns: int = 0


@dataclass(repr=False)
class Job:
    """Groups, and one list of instructions per rank."""

    groups: dict[str, tuple[int, ...]]
    programs: list[list[Step]]
    prefix: str = "nccl"
    timing: bool = True
    ring: int = 10_000
    versions: Sequence[str] = ("2.10",)
    json_ranks: frozenset[int] = frozenset()
    clock_ns: Sequence[int] = ()
    known: bool = True
    entries: list[list[dict[str, Any]]] = field(default_factory=list)
    waiting: list[bool] = field(default_factory=list)

    def __repr__(self) -> str:
        lines = [f"ring {self.ring} timing {self.timing} {self.prefix} {self.versions} json {sorted(self.json_ranks)}"]
        for rank, program in enumerate(self.programs):
            steps = (f"{s.op}@{s.group}#{s.at}" + ("" if s.peer is None else f"({s.peer})") for s in program)
            lines.append(f"{rank}: {' '.join(steps)}")
        return "\n".join(lines)

    def run(self) -> Job:
        """Run every rank as far as it comes."""
        world = len(self.programs)
        position = [0] * world
        entered: dict[tuple[str, int], dict[int, tuple[Step, dict[str, Any]]]] = defaultdict(dict)
        posted: dict[tuple[str, int, int, str], list[tuple[int, dict[str, Any]]]] = defaultdict(list)
        seqs: list[dict[str, int]] = [defaultdict(int) for _ in range(world)]
        points: list[dict[str, int]] = [defaultdict(int) for _ in range(world)]
        self.entries = [[] for _ in range(world)]
        blocked = [False] * world
        now = [BASE_NS] * world
        moved = True
        while moved:
            moved = False
            for rank in range(world):
                if blocked[rank] or position[rank] >= len(self.programs[rank]):
                    continue
                step = self.programs[rank][position[rank]]
                moved = True
                blocked[rank] = True
                now[rank] += STEP_NS + step.late_ns
                if step.peer is None:
                    seqs[rank][step.group] += 1
                    seq = seqs[rank][step.group]
                    made = self._entry(rank, step, seq, False, now[rank])
                    entered[step.group, seq][rank] = (step, made)
                    self._end(entered[step.group, seq], step.group, position, blocked, now)
                else:
                    points[rank][step.group] += 1
                    made = self._entry(rank, step, points[rank][step.group], True, now[rank])
                    ends = (rank, step.peer) if step.op == "send" else (step.peer, rank)
                    posted[step.group, ends[0], ends[1], step.op].append((rank, made))
                    self._pair(posted, step.group, ends, position, blocked, now)
        self.waiting = list(blocked)
        return self

    def _end(
        self,
        instance: dict[int, tuple[Step, dict[str, Any]]],
        group: str,
        position: list[int],
        blocked: list[bool],
        now: list[int],
    ) -> None:
        """Finish a collective that all members have entered alike."""
        members = self.groups[group]
        if set(instance) != set(members) or len({(s.op, s.size, s.dtype) for s, _ in instance.values()}) != 1:
            return
        done = max(now[rank] for rank in members) + STEP_NS
        for rank in members:
            self._done(instance[rank][1], done, rank)
            position[rank] += 1
            blocked[rank] = False
            now[rank] = done

    def _pair(
        self,
        posted: dict[tuple[str, int, int, str], list[tuple[int, dict[str, Any]]]],
        group: str,
        ends: tuple[int, int],
        position: list[int],
        blocked: list[bool],
        now: list[int],
    ) -> None:
        sends, receives = (posted[group, ends[0], ends[1], word] for word in ("send", "recv"))
        if len(sends) == len(receives) and sends:
            done = max(now[rank] for rank in ends) + STEP_NS
            for rank, made in (sends[-1], receives[-1]):
                self._done(made, done, rank)
                position[rank] += 1
                blocked[rank] = False
                now[rank] = done

    def _done(self, made: dict[str, Any], when: int, rank: int) -> None:
        made["retired"] = True
        if self.prefix == "gloo":
            return  # the state stays as it is, and there is no time
        made["state"] = "completed"
        made["time_discovered_completed_ns"] = when + self._shift(rank)

    def _shift(self, rank: int) -> int:
        return self.clock_ns[rank % len(self.clock_ns)] if self.clock_ns else 0

    def _entry(self, rank: int, step: Step, seq: int, p2p: bool, now: int) -> dict[str, Any]:
        members = self.groups[step.group]
        me = members.index(rank)
        name = f"{self.prefix}:{step.op}"
        if step.peer is not None:
            arrow = "->" if step.op == "send" else "<-"
            name += f" {me}{arrow}{members.index(step.peer)}"
        world = len(members)
        ins, outs = [[step.size]], [[step.size]]
        if step.op == "_allgather_base":
            outs = [[step.size * world]]
        elif step.op == "_reduce_scatter_base":
            ins = [[step.size * world]]
        elif step.op == "all_to_all":  # uneven by right
            ins, outs = [[step.size + me]], [[step.size + (me + 1) % world]]
        elif step.op in ("gather", "scatter"):
            root_only = [[step.size]] * world if me == 0 else []
            ins, outs = (ins, root_only) if step.op == "gather" else (root_only, outs)
        timing = self.timing and self.prefix != "gloo"
        made = {
            "frames": [
                {"name": step.op, "filename": f"{TORCH}/distributed_c10d.py", "line": 2806},
                {"name": f"f{step.at}", "filename": "/home/ada/train.py", "line": 10 + step.at},
            ],
            "record_id": len(self.entries[rank]),
            "pg_id": sorted(self.groups).index(step.group),
            "process_group": (step.group, "default_pg" if step.group == "0" else f"mesh_{step.group}"),
            "collective_seq_id": 0 if p2p else seq,
            "p2p_seq_id": seq if p2p else 0,
            "op_id": len(self.entries[rank]),
            "profiling_name": name,
            "time_created_ns": now + self._shift(rank),
            "input_sizes": ins,
            "input_dtypes": [step.dtype] * len(ins),
            "output_sizes": outs,
            "output_dtypes": [step.dtype] * len(outs),
            "state": "started" if timing else "scheduled",
            "time_discovered_started_ns": now + self._shift(rank) if timing else None,
            "time_discovered_completed_ns": None,
            "retired": False,
            "timeout_ms": 600_000,
            "is_p2p": p2p,
        }
        if not (p2p and self.prefix == "gloo"):  # gloo records no send and no recv
            self.entries[rank].append(made)
        return made

    def dumps(self, without: Sequence[int] = ()) -> list[RawDump]:
        """Return the dumps of all ranks but those `without`."""
        made = []
        for rank, entries in enumerate(self.entries):
            if rank in without:
                continue
            config = {
                name: {"name": name, "desc": "", "ranks": str(list(members)) if self.known else "[]"}
                for name, members in self.groups.items()
                if rank in members
            }
            version = self.versions[rank % len(self.versions)]
            dump = {
                "version": version,
                "pg_config": config,
                "pg_status": {},
                "entries": entries[-self.ring :],
            }
            data = as_json(dump) if rank in self.json_ranks else pickled(dump)
            made.append(RawDump(f"trace_{rank}", rank, data))
        return made


def changed(job: Job, rank: int, at: int, **changes: Any) -> None:
    """Change one instruction of one rank."""
    job.programs[rank][at] = replace(job.programs[rank][at], **changes)


def dense(programs: Sequence[Sequence[Step]]) -> list[list[Step]]:
    """Return programs as lists that can be changed."""
    return [list(program) for program in programs]
