"""What threads are calling, beside their stacks: split off, joined, and in words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.protocol.test_callreader import DOCUMENT
from torchctl.protocol.callreader import calls_from_json
from torchctl.protocol.calls import Call, Tensor, Wait
from torchctl.stacks.calls import call_text, note_of, wait_text
from torchctl.stacks.merge import CALL, Worker, merge
from torchctl.stacks.reader import StackReader

TORCH = "/x/site-packages/torch/distributed/distributed_c10d.py"
TEXT = f"""Thread 0x0000000000000007 [MainThread] (most recent call first):
  File "{TORCH}", line 2800 in recv
  File "train.py", line 3 in step
"""
NOTHING = Call("recv", 0, 1, None, {}, None, "", "", None, (), {}, ())
NO_WAIT = Wait("", "", "", "", (), "", None, None, None, False)
GROUPS = calls_from_json(DOCUMENT).groups


def answer(frame: list[Any] | None = None, **call: Any) -> bytes:
    """Return a worker's stacks with its calls behind them."""
    thread = {**DOCUMENT["threads"][0], "id": 7, "frame": frame or [TORCH, 2800, "recv"], "wait": None}
    thread["calls"] = [{"function": "recv", "depth": 0, "line": 2800, "group": 0, **call}]
    return f"{TEXT}\n# torchctl.calls {json.dumps({**DOCUMENT, 'threads': [thread]})}\n".encode()


def test_calls_come_behind_the_stacks_and_do_not_change_them() -> None:
    reader = StackReader()
    with_calls, plain = reader.read(answer(src=1)), reader.read(TEXT.encode())
    assert with_calls.threads[0].frames is plain.threads[0].frames
    assert with_calls.calls is not None
    assert plain.calls is None
    assert note_of(with_calls, with_calls.threads[0]) == "recv(src=1)"
    assert note_of(plain, plain.threads[0]) == ""


@pytest.mark.parametrize("line", ["", "{", "[]", '{"schema": "torchctl.calls/9"}', "[" * 10_000])
def test_calls_that_cannot_be_read_cost_no_stacks(line: str) -> None:
    stacks = StackReader().read(f"{TEXT}\n# torchctl.calls {line}\n".encode())
    assert len(stacks.threads[0].frames) == 2
    assert stacks.calls is None


def test_a_thread_that_has_gone_on_is_in_no_call() -> None:
    stacks = StackReader().read(answer([TORCH, 2799, "recv"], src=1))
    assert note_of(stacks, stacks.threads[0]) == ""


def test_a_call_whose_inside_is_the_jobs_code_is_not_what_the_thread_is_in() -> None:
    stacks = StackReader().read(answer(depth=2))
    assert note_of(stacks, stacks.threads[0]) == ""


def test_equal_stacks_in_other_calls_are_two_classes_and_two_branches() -> None:
    reader = StackReader()
    stacks = [reader.read(answer(src=source)) for source in (1, 1, 2)]
    (role,) = merge([Worker(rank, one) for rank, one in enumerate(stacks)]).roles
    classes = [([2], "recv(src=2)"), ([0, 1], "recv(src=1)")]
    assert [(one.members, one.frames[0].function) for one in role.classes] == classes
    assert all(one.frames[0].file == CALL for one in role.classes)
    (trunk,) = role.branches
    assert [(one.members, one.frames[-1].function) for one in trunk.children] == classes


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"numbers": {"src": 1, "tag": 7}}, "recv(src=1, tag=7)"),
        ({"numbers": {"src": 1, "group_src": 0, "tag": 0}, "group": 0}, "recv(src=1)"),
        ({"numbers": {"group_dst": 2}, "op": "MAX"}, "recv(group_dst=2, op=MAX)"),
        ({"ranks": (range(4), range(6, 7)), "op": "SUM"}, "recv(ranks=0-3,6)"),
        ({"to": "worker1"}, "recv(to=worker1)"),
        ({"tensors": {"output": (Tensor("int64", (2, 3), "cpu"),)}}, "recv() of int64[2, 3]"),
        ({"tensors": {"tensor": (Tensor("int8", None, "cpu"),) * 2}}, "recv() of int8[?]"),
    ],
)
def test_a_call_in_words(fields: dict[str, Any], text: str) -> None:
    assert call_text(NOTHING._replace(**fields), GROUPS) == text


@pytest.mark.parametrize(("description", "shown"), [("", "5"), ("undefined", "5"), ("mesh_tp", "mesh_tp")])
def test_a_group_is_called_by_its_description_or_else_by_its_name(description: str, shown: str) -> None:
    group = GROUPS[0]._replace(name="5", description=description, default=False)
    assert call_text(NOTHING._replace(group=0), [group]) == f"recv(group={shown})"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"call": "work.wait", "kind": "work", "type": "torch.distributed.Work", "operation": "recv"},
            "Work.wait() of recv",
        ),
        ({"call": "x.item", "kind": "tensor", "type": "torch.Tensor", "sync": True}, "Tensor.item() [a device sync]"),
        (
            {"call": "s.get", "kind": "store", "type": "torch.distributed.TCPStore", "keys": ("k",)},
            "TCPStore.get() for 'k'",
        ),
        ({"call": "waiter.acquire", "kind": "queue", "type": "queue.Queue", "via": "Queue.get"}, "Queue.get()"),
        ({"call": "with self.lock", "kind": "lock", "type": "threading.RLock"}, "RLock (with self.lock)"),
        ({"call": "time.sleep"}, "time.sleep()"),
        ({"call": "self.work.wait"}, "self.work.wait()"),
    ],
)
def test_a_wait_in_words(fields: dict[str, Any], text: str) -> None:
    assert wait_text(NO_WAIT._replace(**fields)) == text


def test_who_is_waited_for_is_said_of_one_worker_alone() -> None:
    calls = calls_from_json(DOCUMENT)
    lock = NO_WAIT._replace(call="lock.acquire", kind="lock", type="threading.RLock", thread=1 << 63)
    assert wait_text(lock) == "RLock.acquire()"
    assert wait_text(lock, calls) == "RLock.acquire(), held by thread MainThread"
    child = NO_WAIT._replace(call="os.waitpid", kind="process", type="subprocess.Popen", via="Popen.wait", process=7)
    assert wait_text(child, calls) == "Popen.wait() of process 7"
