"""The document of what threads call: read whole, and refused in any other form."""

import copy
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from torchctl.protocol.callreader import calls_from_json, calls_from_text
from torchctl.protocol.calls import P2P, SCHEMA, Call, Tensor, Wait

RECV = {"function": "recv", "depth": 0, "line": 2800, "group": 0, "src": 1, "tag": 7}
DOCUMENT: dict[str, Any] = {
    "schema": SCHEMA,
    "pid": 4711,
    "rank": 0,
    "time": 1.5,
    "arguments": True,
    "complete": True,
    "groups": [
        {
            "name": "0",
            "description": "default_pg",
            "ranks": [[0, 6, 2], [7, 7, 1]],
            "rank": 0,
            "backend": "cpu:gloo",
            "default": True,
            "sequence": 12,
            "a later key": 1,
        }
    ],
    "threads": [
        {
            "id": 1 << 63,
            "native_id": None,
            "name": "MainThread",
            "main": True,
            "cpu_ns": 5,
            "wchan": "",
            "frame": ["train.py", 3, "step"],
            "offsets": [46, 8],
            "calls": [{**RECV, "tensors": {"tensor": [["float32", [4, 4], "cpu"], ["int64", None, "cpu"]]}}],
            "wait": {
                "call": "work.wait",
                "kind": "work",
                "type": "torch.distributed.Work",
                "operation": "recv",
                "p2p": {"operation": "irecv", "peer": 3, "tag": -1, "group": 0, "since": 1.0},
            },
        }
    ],
    "p2p": [{"operation": "isend", "peer": None, "tag": None, "group": None, "since": 2}],
}


def test_the_whole_document_is_read() -> None:
    calls = calls_from_text(json.dumps(DOCUMENT))
    assert calls.groups[0].members == (0, 2, 4, 6, 7)
    assert calls.groups[0].sequence == 12
    assert calls.main is calls.threads[0]
    assert calls.main.offsets == (46, 8)
    tensors = {"tensor": (Tensor("float32", (4, 4), "cpu"), Tensor("int64", None, "cpu"))}
    (call,) = calls.threads[0].calls
    assert call == Call("recv", 0, 2800, 0, {"src": 1, "tag": 7}, None, "", "", None, (), tensors, ())
    p2p = P2P("irecv", 3, -1, 0, 1.0)
    wait = Wait("work.wait", "work", "torch.distributed.Work", "", (), "recv", p2p, None, None, False)
    assert calls.threads[0].wait == wait
    assert calls.p2p == (P2P("isend", None, None, None, 2.0),)


def _set(*path: Any) -> Callable[[Any], None]:
    """Return what puts the last of `path` where the others lead."""

    def change(document: Any) -> None:
        *way, key, value = path
        for step in way:
            document = document[step]
        document[key] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("schema", "torchctl.calls/2"),
        _set("pid", True),
        _set("pid", -1),
        _set("time", float("nan")),
        _set("groups", {}),
        _set("groups", [None] * 5000),
        _set("groups", 0, "ranks", [[0, 1 << 40, 1]]),
        _set("groups", 0, "ranks", [[3, 0, 1]]),
        _set("groups", 0, "ranks", [[0, 3, 0]]),
        _set("threads", 0, "frame", ["train.py", 3]),
        _set("threads", 0, "id", 1 << 65),
        _set("threads", 0, "offsets", [-1]),
        _set("threads", 0, "offsets", [0] * 101),
        _set("threads", 0, "calls", 0, "group", 1),
        _set("threads", 0, "calls", 0, "src", "1"),
        _set("threads", 0, "calls", 0, "tensors", "tensor", [["float32", [-1], "cpu"]]),
        _set("threads", 0, "calls", [RECV] * 17),
        _set("threads", 0, "wait", "work.wait"),
        _set("p2p", [{}]),
    ],
)
def test_another_form_is_refused(change: Callable[[Any], None]) -> None:
    document = copy.deepcopy(DOCUMENT)
    change(document)
    with pytest.raises(ValueError, match=r"torchctl\.calls|in it|call|ranks"):
        calls_from_json(document)


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 100_000, b"\xff"])
def test_what_is_no_document_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        calls_from_text(text)


def test_a_spoilt_document_is_read_or_refused_and_nothing_else() -> None:
    dice = random.Random(1)
    whole = json.dumps(DOCUMENT)
    read = 0
    for _ in range(3000):
        at = dice.randrange(len(whole))
        try:
            calls_from_text(whole[:at] + dice.choice('0-9"[]{},:nte\\.') + whole[at + 1 :])
            read += 1
        except ValueError:
            pass
    assert 0 < read < 3000
