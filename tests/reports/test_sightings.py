"""Whether a rank has moved between two looks: by its recorders, by its groups' counts, and which thread it was."""

from __future__ import annotations

import json
from typing import Any

import pytest

from torchctl.protocol.calls import SCHEMA
from torchctl.reports.sightings import has_moved, stands
from torchctl.stacks.reader import parse_stacks
from torchctl.workers.ask.reply import Reply
from torchctl.workers.questions.info import WorkerInfo
from torchctl.workers.questions.look import Sight

GROUPS = ("0", "beats")


def sight(moving: int, sequences: tuple[int, int] | None, call: tuple[str, int] | None = None) -> Sight:
    """Make a look: the recorders' counts, each group's own, and the call and group that the main thread is in."""
    if sequences is None:
        return Sight(0, WorkerInfo(), moving, reply=Reply(200, b"{}", "", 0.0))
    group = {"description": "", "ranks": [[0, 1, 1]], "rank": 0, "backend": "gloo", "default": False}
    made = [{**group, "name": name, "sequence": count} for name, count in zip(GROUPS, sequences, strict=True)]
    inside = [] if call is None else [{"function": call[0], "depth": 0, "line": 9, "group": call[1]}]
    main = {"id": 1, "native_id": 7, "name": "MainThread", "main": True, "cpu_ns": 5, "wchan": "", "wait": None}
    thread: dict[str, Any] = {**main, "frame": ["train.py", 3, "step"], "calls": inside}
    calls = {"schema": SCHEMA, "pid": 7, "rank": 0, "time": 1.5, "arguments": True, "complete": True}
    document = {**calls, "groups": made, "threads": [thread], "p2p": None}
    return Sight(0, WorkerInfo(), moving, reply=Reply(200, json.dumps({"calls": document}).encode(), "", 0.0))


IN_STEP, IN_RECV = ("all_reduce", 0), ("recv", 0)


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        pytest.param(sight(1, None), sight(1, None), False, id="an older worker that stands"),
        pytest.param(sight(1, None), sight(2, None), True, id="an older worker that moves"),
        pytest.param(sight(1, (5, 1)), sight(1, None), False, id="calls at one look alone"),
        pytest.param(sight(1, (5, 1)), sight(1, (5, 1)), False, id="nothing counts"),
        pytest.param(sight(1, (5, 1), IN_RECV), sight(1, (7, 1), IN_RECV), True, id="sends that no recorder counts"),
        pytest.param(sight(1, (5, 1), IN_STEP), sight(2, (5, 9), IN_STEP), False, id="a heartbeat alone"),
        pytest.param(sight(1, (5, 1), IN_STEP), sight(2, (6, 9), IN_STEP), True, id="the next step"),
        pytest.param(sight(1, (5, 1), IN_STEP), sight(2, (5, 9)), True, id="out of the step"),
    ],
)
def test_a_rank_has_moved(before: Sight, after: Sight, moved: bool) -> None:
    assert has_moved(before, after) is moved


def asks(*keys: str) -> Sight:
    """Make a look at a rank whose main thread waits for keys of the store."""
    one = sight(1, (5, 1))
    assert one.reply is not None
    document = json.loads(one.reply.body)
    wait = {"call": "store.wait", "kind": "store", "type": "torch.distributed.TCPStore", "keys": list(keys)}
    document["calls"]["threads"][0]["wait"] = wait
    return Sight(0, WorkerInfo(), 1, reply=Reply(200, json.dumps(document).encode(), "", 0.0))


@pytest.mark.parametrize(("first", "second", "moved"), [("a", "a", False), ("a", "b", True)])
def test_who_waits_for_another_key_has_moved(first: str, second: str, moved: bool) -> None:
    assert has_moved(asks(first), asks(second)) is moved


OWN = """Thread 0x0000000000000001 [MainThread] (most recent call first):
  File "train.py", line 3 in step
"""
JOINS = f"""Thread 0x0000000000000001 [MainThread] (most recent call first):
  File "/opt/lib/python3.11/threading.py", line 1119 in _wait_for_tstate_lock
{OWN[OWN.index("  File") :]}
Thread 0x0000000000000002 [trains] (most recent call first):
  File "train.py", line 30 in train
"""


def rests(cpu_ns: int, channel: str = "locks_lock_inode_wait") -> Sight:
    """Make a look at a rank whose main thread has used so much CPU time, and sleeps where the kernel says."""
    one = sight(1, (5, 1))
    assert one.reply is not None
    body = one.reply.body.replace(b'"cpu_ns": 5', b'"cpu_ns": %d' % cpu_ns)
    body = body.replace(b'"wchan": ""', b'"wchan": "%s"' % channel.encode())
    return Sight(0, WorkerInfo(), 1, reply=Reply(200, body, "", 0.0))


@pytest.mark.parametrize(
    ("before", "after", "stacks", "still"),
    [
        pytest.param(rests(5), rests(5), OWN, True, id="asleep at one place, on no CPU"),
        pytest.param(rests(5), rests(9), OWN, False, id="it has run meanwhile"),
        pytest.param(rests(5, ""), rests(5), OWN, False, id="it may be waiting for a CPU"),
        pytest.param(rests(5), rests(5), JOINS, False, id="another thread trains"),
        pytest.param(sight(1, None), sight(1, None), OWN, False, id="an older worker"),
    ],
)
def test_a_ranks_own_thread_stands_still(before: Sight, after: Sight, stacks: str, still: bool) -> None:
    assert stands(before, after, parse_stacks(stacks.encode())) is still
