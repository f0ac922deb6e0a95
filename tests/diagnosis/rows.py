"""Rows of single ranks in the recorders' form, and what is made of them: what the cases of a diagnosis are built of."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.flightrec.synthetic import active, dump, entry, pickled
from tests.protocol.test_callreader import DOCUMENT
from torchctl.diagnosis.diagnose import diagnose
from torchctl.diagnosis.evidence import Evidence
from torchctl.diagnosis.model import Diagnosis, Finding
from torchctl.flightrec.decoding.raw import Failure, RawDump
from torchctl.flightrec.table.loading import load_raw
from torchctl.stacks.reader import parse_stacks
from torchctl.stacks.stack import Stacks

Rows = Sequence[dict[str, Any]]


def groups(**members: Sequence[int]) -> dict[str, Any]:
    """pg_config of these groups; `w` stands for the default group."""
    return {
        name.replace("w", "0"): {"name": name.replace("w", "0"), "desc": "", "ranks": str(list(ranks))}
        for name, ranks in members.items()
    }


def of(name: str, seq: int, make: Callable[..., dict[str, Any]] = entry, /, **changes: Any) -> dict[str, Any]:
    where = {"process_group": (name, ""), "pg_id": 0 if name == "0" else ord(name[0])}
    return make(seq, **(where | changes))


def started(name: str, seq: int, **changes: Any) -> dict[str, Any]:
    return of(name, seq, active, **({"state": "started"} | changes))


def look(
    rows: Mapping[int, Rows], config: dict[str, Any], stacks: dict[int, Stacks] | None = None, **known: Any
) -> Diagnosis:
    """Diagnose these ranks' rows; record ids are given here."""
    return look_at({rank: ring(entries, config) for rank, entries in rows.items()}, stacks, **known)


def ring(entries: Rows, config: dict[str, Any], lost: int = 0, **changes: Any) -> dict[str, Any]:
    """One rank's dump, whose ring has lost so many older entries."""
    numbered = [made | {"record_id": at + lost} for at, made in enumerate(entries)]
    return dump(numbered, **({"pg_config": config, "pg_status": {}} | changes))


def look_at(
    dumps: Mapping[int, dict[str, Any]],
    stacks: dict[int, Stacks] | None = None,
    written_ns: Mapping[int, int] | None = None,
    **known: Any,
) -> Diagnosis:
    """Diagnose whole dumps, by rank; `written_ns` are the times of their files."""
    times = written_ns or {}
    raw: list[RawDump | Failure] = [
        RawDump(f"trace_{rank}", rank, pickled(made), written_ns=times.get(rank)) for rank, made in dumps.items()
    ]
    return diagnose(Evidence(load_raw(iter(raw)), stacks or {}, **known))


def told(found: Diagnosis) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    return [(one.kind, one.culprit_ranks, one.waiting_ranks) for one in found.findings]


def only(found: Diagnosis) -> Finding:
    assert len(found.findings) == 1, found.findings
    return found.findings[0]


WORLD = groups(w=[0, 1, 2, 3])


def p2p(
    kind: str, seq: int, me: int, peer: int, make: Callable[..., dict[str, Any]] = entry, **changes: Any
) -> dict[str, Any]:
    name = f"nccl:{kind} {me}{'->' if kind == 'send' else '<-'}{peer}"
    return of("0", 0, make, profiling_name=name, is_p2p=True, p2p_seq_id=seq, collective_seq_id=0, **changes)


TORCH_FILE = "/opt/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py"


def stack(*frames: tuple[str, int, str]) -> Stacks:
    lines = [f'  File "{file}", line {line} in {function}' for file, line, function in frames]
    return parse_stacks("\n".join(["Thread 0x0000000000000001 (most recent call first):", *lines]).encode())


def inside(call: str) -> Stacks:
    return stack((TORCH_FILE, 10, call), ("/home/ada/train.py", 7, "step"))


def elsewhere(file: str = "/opt/lib/python3.11/queue.py", function: str = "get") -> Stacks:
    return stack((file, 171, function), ("/home/ada/load.py", 9, "batch"))


def gloo(name: str, seq: int, done: bool = True, **changes: Any) -> dict[str, Any]:
    open_ = {"state": "scheduled", "time_discovered_completed_ns": None, "retired": done}
    return of(name, seq, profiling_name="gloo:all_reduce", **(open_ | changes))


def told_by_worker(
    frames: Sequence[tuple[str, int, str]], calls: list[dict[str, Any]], wait: dict[str, Any] | None
) -> Stacks:
    """A main thread with what it is calling, as a worker of ours sends both; group 0 is the default one of 4 ranks."""
    thread = {**DOCUMENT["threads"][0], "id": 1, "main": True, "frame": list(frames[0]), "calls": calls, "wait": wait}
    groups = [{**DOCUMENT["groups"][0], "ranks": [[0, 3, 1]]}]
    lines = [f'  File "{file}", line {line} in {function}' for file, line, function in frames]
    text = "\n".join(["Thread 0x0000000000000001 [MainThread] (most recent call first):", *lines])
    document = {**DOCUMENT, "groups": groups, "p2p": None, "threads": [thread]}
    return parse_stacks(f"{text}\n# torchctl.calls {json.dumps(document)}\n".encode())
