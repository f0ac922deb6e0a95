"""Refusals at a pace: garbage waits, nobody else does."""

import contextlib
import socket
import time
from pathlib import Path

import pytest

from tests.http_client import post, raw
from torchctl.server import WorkerServer
from torchctl.server.http.channel import Channel
from torchctl.server.http.connections import Connections
from torchctl.server.http.pacing import BURST, MAX_WAIT_S, PER_SECOND, Pace


def test_a_burst_is_free_and_then_so_many_a_second() -> None:
    pace = Pace()
    assert max(pace.turn(1000.0) for _ in range(BURST)) == pytest.approx(0.0, abs=1e-6)
    assert [round(pace.turn(1000.0) * PER_SECOND, 6) for _ in range(3)] == [1, 2, 3]
    assert pace.turn(1000.0 + 2 / PER_SECOND) == pytest.approx(2 / PER_SECOND)


def test_a_quiet_time_gives_the_burst_back_and_no_more() -> None:
    pace = Pace()
    for now in (0.0, 5000.0):
        assert max(pace.turn(now) for _ in range(BURST)) == pytest.approx(0.0, abs=1e-6)
        assert pace.turn(now) == pytest.approx(1 / PER_SECOND)


def test_nobody_waits_longer_than_the_most_and_a_crowd_does_not_make_it_longer_for_later_ones() -> None:
    pace = Pace()
    waits = [pace.turn(1000.0) for _ in range(10 * int(PER_SECOND))]
    assert max(waits) == MAX_WAIT_S
    assert pace.turn(1000.0 + MAX_WAIT_S + 1.0) == 0.0


def test_a_server_refuses_garbage_at_that_pace_and_answers_a_good_client_at_once(folder: Path) -> None:
    path, extra = str(folder / "s"), 60
    with WorkerServer(path):
        began = time.monotonic()
        for _ in range(BURST + extra):
            assert raw(path, b"\0garbage\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        assert time.monotonic() - began >= extra / PER_SECOND
        assert post(path, "ping").body == b"pong"


def test_a_quarter_of_the_places_is_a_crowd_in_which_no_refusal_waits() -> None:
    table = Connections(8)
    with contextlib.ExitStack() as stack:
        crowded = []
        for _ in range(3):
            ends = [stack.enter_context(end) for end in socket.socketpair()]
            assert table.add(Channel(ends[0], "")) is not None
            crowded.append(table.crowded)
    assert crowded == [False, False, True]
