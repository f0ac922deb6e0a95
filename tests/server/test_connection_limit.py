"""Idle and slow clients never keep a good one out, and threads stay bounded."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.asking import call
from tests.http_client import connect, post, raw
from torchctl.errors import BusyError
from torchctl.protocol import MAX_CONNECTIONS
from torchctl.server import Request, Response, WorkerServer, handler
from torchctl.workers.endpoint import Endpoint


@handler("long-answer")
def long_answer(request: Request, response: Response) -> None:
    response.set_content(b"x" * 100_000, "application/octet-stream")


release = threading.Event()
running = threading.Semaphore(0)


@handler("blocking")
def blocking(request: Request, response: Response) -> None:
    running.release()
    release.wait(30)


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    with WorkerServer(str(folder / "s")) as server:
        yield server.address


@pytest.mark.parametrize("first_bytes", [b"", b"POST /handler/ping HTTP/1.1\r\nX-A: "])
def test_512_idle_or_slow_connections_leave_room_for_a_good_client(address: str, first_bytes: bytes) -> None:
    before = threading.active_count()
    with ExitStack() as stack:
        for _ in range(512):
            sock = stack.enter_context(connect(address))
            if first_bytes:
                try:
                    sock.sendall(first_bytes)
                except OSError:
                    pass  # made room already
        for _ in range(20):
            assert post(address, "ping").body == b"pong"
        assert threading.active_count() - before <= MAX_CONNECTIONS


def test_the_connection_that_waited_longest_makes_room(address: str) -> None:
    with ExitStack() as stack:
        oldest = stack.enter_context(connect(address))
        time.sleep(0.05)  # older by more than the scheduler's noise
        for _ in range(MAX_CONNECTIONS - 1):
            stack.enter_context(connect(address))
        kept = stack.enter_context(connect(address))
        assert oldest.recv(1) == b""
        kept.sendall(b"POST /handler/ping HTTP/1.1\r\n\r\n")
        assert kept.recv(1000).endswith(b"pong")


def test_when_all_are_being_served_a_new_one_is_told_busy(address: str) -> None:
    with ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            sock = stack.enter_context(connect(address))
            sock.sendall(b"POST /handler/blocking HTTP/1.1\r\n\r\n")
        try:
            for _ in range(MAX_CONNECTIONS):
                assert running.acquire(timeout=10)
            assert raw(address, b"").startswith(b"HTTP/1.1 503 ")
            with pytest.raises(BusyError, match="all its connections are in use"):
                call(Endpoint(path=address), "ping", time.monotonic() + 10)
        finally:
            release.set()


def test_clients_that_do_not_read_their_answers_make_room_too(address: str) -> None:
    with ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            sock = stack.enter_context(connect(address))
            sock.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    sock.send(b"POST /handler/long-answer HTTP/1.1\r\n\r\n")
        for _ in range(5):
            assert post(address, "ping").body == b"pong"
