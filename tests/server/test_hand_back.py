"""Clients whom the sentinel took over while the worker was silent, and whom it answers when that is back."""

import os
import select
import socket
import time
from pathlib import Path

import pytest

from torchctl.process.reasons import Reason
from torchctl.server.http.gate import Gate
from torchctl.server.sentinel.answers import Desk
from torchctl.server.sentinel.handover import Handover
from torchctl.server.sentinel.page import Page, make
from torchctl.server.sentinel.state import Degraded, State

WORKER = Handover(1, 1, "/x/s", [], 3, 4, "job", None, "vm", "/x", "0", None, None, "", [])


def answer(desk: Desk, poll: select.poll, listening: socket.socket, name: str) -> str:
    """Ask for a handler as a client that connects to the listening socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(listening.getsockname())
        client.sendall(f"POST /handler/{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        desk.accept(listening, Gate())
        client.settimeout(0.01)
        data, deadline = b"", time.monotonic() + 10
        while time.monotonic() < deadline:
            for descriptor, _ in poll.poll(10):
                desk.attend(descriptor)
            try:
                chunk = client.recv(65536)
            except TimeoutError:
                continue
            if not chunk:
                return data.decode()
            data += chunk
    raise AssertionError("no whole answer in time")


@pytest.mark.parametrize(
    ("name", "status", "says_degraded", "body"),
    [
        ("ping", "200", False, "pong"),
        ("dump_traceback", "503", True, "no stacks from outside"),
        ("torch_profile", "503", True, "has recovered: ask again"),
    ],
)
def test_stacks_from_outside_stay_such_when_the_worker_is_back_meanwhile(
    folder: Path, name: str, status: str, says_degraded: bool, body: str
) -> None:
    descriptor = make()
    state = State(WORKER, Page(descriptor))
    os.close(descriptor)
    state.degraded = Degraded(1_700_000_000.0, (Reason("stopped", "stopped by a signal"),), False)
    poll = select.poll()
    desk = Desk(state, poll, None)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(folder / "s"))
        listening.listen()
        assert "degraded since 2023-" in answer(desk, poll, listening, "ping")
        state.answers_again()
        text = answer(desk, poll, listening, name)
    desk.close()
    assert text.startswith(f"HTTP/1.1 {status} ")
    assert ("Torchctl-Degraded: 1700000000.000 stopped by a signal" in text) is says_degraded
    assert body in text.partition("\r\n\r\n")[2]
