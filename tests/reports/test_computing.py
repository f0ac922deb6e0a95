"""Which share of a core a rank has used between two looks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from torchctl.protocol.calls import SCHEMA
from torchctl.reports.computing import cpu_share
from torchctl.workers.ask.reply import Reply
from torchctl.workers.questions.info import WorkerInfo
from torchctl.workers.questions.look import Sight


def sight(time: float, cpu_ns: int | None, pid: int = 7) -> Sight:
    main = {"id": 1, "native_id": 7, "name": "MainThread", "main": True, "cpu_ns": cpu_ns, "wchan": "", "wait": None}
    thread: dict[str, Any] = {**main, "frame": ["train.py", 3, "step"], "calls": []}
    about = {"schema": SCHEMA, "pid": pid, "rank": 0, "time": time, "arguments": True, "complete": True}
    document = {**about, "groups": [], "threads": [thread], "p2p": None}
    return Sight(0, WorkerInfo(), 1, reply=Reply(200, json.dumps({"calls": document}).encode(), "", 0.0))


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [
        pytest.param(sight(10.0, 1_000_000_000), sight(12.0, 2_000_000_000), 0.5, id="half of it"),
        pytest.param(sight(10.0, 7), sight(12.0, 7), 0.0, id="it sleeps"),
        pytest.param(sight(10.0, None), sight(12.0, 7), None, id="not known"),
        pytest.param(sight(10.0, 5), sight(9.0, 7), None, id="a clock that was set back"),
        pytest.param(sight(10.0, 5), sight(12.0, 7, pid=8), None, id="another process"),
        pytest.param(Sight(0, WorkerInfo()), sight(12.0, 7), None, id="an older worker"),
    ],
)
def test_the_share_of_a_core(before: Sight, after: Sight, share: float | None) -> None:
    assert cpu_share(before, after) == share
