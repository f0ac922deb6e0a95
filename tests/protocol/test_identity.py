"""Who a worker says it is: the same through headers and through JSON, whatever is in it."""

import json
from typing import Any

import pytest

from torchctl.protocol.identity import NOBODY, Identity

pytestmark = pytest.mark.once

WHOLE = Identity(3, 4711, 8, "train-7", 1203, "stopped by a signal", 1_700_000_000)


def from_lines(lines: list[str]) -> Identity:
    return Identity.from_headers({name.lower(): value for name, _, value in (one.partition(": ") for one in lines)})


@pytest.mark.parametrize("identity", [WHOLE, WHOLE._replace(degraded=None, since=None), Identity(0, step=0), NOBODY])
def test_it_comes_back_as_it_was_sent(identity: Identity) -> None:
    assert from_lines(identity.header_lines()) == identity
    assert Identity.from_json(json.loads(json.dumps(identity.as_json()))) == identity


def test_its_header_lines() -> None:
    assert WHOLE._replace(since=1_700_000_000.25).header_lines() == [
        "Torchctl-Pid: 4711",
        "Torchctl-Rank: 3",
        "Torchctl-World-Size: 8",
        "Torchctl-Job: train-7",
        "Torchctl-Step: 1203",
        "Torchctl-Degraded: 1700000000.250 stopped by a signal",
    ]


def test_what_no_header_can_carry_is_left_out_or_replaced() -> None:
    lines = Identity(1, job_id="übung", degraded="held by\r\nHost: ü", since=5.0).header_lines()
    assert lines == ["Torchctl-Rank: 1", "Torchctl-Degraded: 5.000 held by??Host: ?"]


def test_seconds_of_json_are_whole() -> None:
    assert Identity.from_json({"degraded": "x", "since": 1_700_000_000.9}).since == 1_700_000_000


@pytest.mark.parametrize(
    "document",
    [
        {"rank": "3", "pid": [], "world_size": -1, "job_id": 7, "step": True, "degraded": 1, "since": 5},
        {"rank": 10**9, "pid": 1.0, "job_id": None, "degraded": "", "since": 5},
        {"unknown": 1, "since": float("nan")},
        {},
    ],
)
def test_what_makes_no_sense_in_json_is_unknown(document: dict[str, Any]) -> None:
    assert Identity.from_json(document) == NOBODY


@pytest.mark.parametrize(
    "headers",
    [
        {"torchctl-rank": "-1", "torchctl-pid": "1" * 10, "torchctl-step": "٣", "torchctl-job": ""},
        {"torchctl-degraded": "1700000000.0"},
        {},
    ],
)
def test_what_makes_no_sense_in_headers_is_unknown(headers: dict[str, str]) -> None:
    assert Identity.from_headers(headers) == NOBODY


def test_long_texts_are_cut() -> None:
    read = Identity.from_json({"job_id": "j" * 999, "degraded": "d" * 999, "since": 1})
    assert (len(read.job_id or ""), len(read.degraded or "")) == (200, 500)
    assert read == from_lines(["torchctl-job: " + "j" * 999, "torchctl-degraded: 1 " + "d" * 999])
