"""Whether a thread gets on: what works goes from call to call, what polls or loops changes in its innermost frame."""

from __future__ import annotations

import json
from typing import Any

import pytest

from torchctl.protocol.calls import SCHEMA
from torchctl.stacks.advance import goes_on, path_of
from torchctl.stacks.reader import parse_stacks
from torchctl.stacks.stack import Stacks

Frame = tuple[str, str, int]  # file, function, line; innermost first
QUEUE = "/opt/lib/python3.11/queue.py"


def sample(*frames: Frame, offsets: list[int] | None = None) -> Stacks:
    """Return the stacks of one thread, with the offsets of its frames if its worker says them."""
    lines = ["Current thread 0x0000000000000001 [MainThread] (most recent call first):"]
    lines += [f'  File "{file}", line {line} in {function}' for file, function, line in frames]
    if offsets is not None:
        thread: dict[str, Any] = {"id": 1, "native_id": 7, "name": "MainThread", "main": True, "cpu_ns": 5, "wchan": ""}
        file, function, line = frames[0]
        thread |= {"frame": [file, line, function], "offsets": offsets, "calls": [], "wait": None}
        about = {"schema": SCHEMA, "pid": 7, "rank": 0, "time": 1.5, "arguments": True, "complete": True}
        lines.append("# torchctl.calls " + json.dumps(about | {"groups": [], "threads": [thread], "p2p": None}))
    return parse_stacks("\n".join(lines).encode())


LAYER, FORWARD, MAIN = ("eval.py", "layer", 24), ("eval.py", "forward", 19), ("eval.py", "<module>", 3)
NEXT = ("eval.py", "forward", 20)
LOOP = ("train.py", "loop", 37)
READY, LOAD = ("train.py", "ready", 9), ("load.py", "load", 5)


@pytest.mark.parametrize(
    ("before", "after", "gets_on"),
    [
        pytest.param(sample(LOOP, MAIN), sample(LOOP, MAIN), False, id="one place"),
        pytest.param(sample(LOOP, MAIN), sample(("train.py", "loop", 38), MAIN), False, id="a loop of two lines"),
        pytest.param(sample(READY, LOOP, MAIN), sample(LOOP, MAIN), False, id="a loop that polls a function"),
        pytest.param(
            sample((QUEUE, "empty", 105), LOOP, MAIN), sample((QUEUE, "qsize", 97), LOOP, MAIN), False, id="a queue"
        ),
        pytest.param(
            sample(READY, LOOP, offsets=[4, 90]), sample(READY, LOOP, offsets=[8, 90]), False, id="within the innermost"
        ),
        pytest.param(sample(LAYER, FORWARD, MAIN), sample(LAYER, NEXT, MAIN), True, id="a line on"),
        pytest.param(
            sample(LAYER, FORWARD, offsets=[4, 40]), sample(LAYER, FORWARD, offsets=[4, 52]), True, id="a call on"
        ),
        pytest.param(sample(READY, LOOP, MAIN), sample(LOAD, LOOP, MAIN), True, id="another function"),
        pytest.param(sample(LAYER, FORWARD, MAIN), sample(MAIN), False, id="back in the script"),
    ],
)
def test_a_thread_gets_on(before: Stacks, after: Stacks, gets_on: bool) -> None:
    assert goes_on([path_of(before), path_of(after)]) is gets_on
    assert goes_on([path_of(before)]) is False


def test_a_process_without_a_main_thread_does_not_get_on() -> None:
    empty = Stacks(())
    assert goes_on([path_of(empty), path_of(empty)]) is False
