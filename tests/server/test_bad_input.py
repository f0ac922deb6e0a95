"""Bad input is an error response or a closed connection; never an exception, never a thread left behind."""

import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.eventually import wait_until
from tests.http_client import connect, post, raw
from torchctl.server import Request, Response, WorkerServer, handler

PING = b"POST /handler/ping HTTP/1.1\r\n"


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    with WorkerServer(str(folder / "s")) as server:
        yield server.address


@handler("large")
def large(request: Request, response: Response) -> None:
    response.set_content(b"x" * (32 << 20), "application/octet-stream")


def connection_threads() -> int:
    return sum(thread.name == "torchctl-conn" for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x00\xff\xfe garbage\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 505),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/1.1 extra\r\n\r\n", 400),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", 414),
        (PING + b"X-A: " + b"a" * 1_000_000 + b"\r\n\r\n", 431),
        (PING + b"X-A: b\r\n" * 65 + b"\r\n", 431),
        (PING + b"no colon\r\n\r\n", 400),
        (PING + b" folded: x\r\n\r\n", 400),
        (PING + b"Content-Length: -1\r\n\r\n", 400),
        (PING + b"Content-Length: 1e3\r\n\r\n", 400),
        (PING + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx", 400),
        (PING + b"Content-Length: 10485760\r\n\r\n", 413),
        (PING + b"Content-Length: 1000000000000000000\r\n\r\n", 413),
        (PING + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", 400),
        (PING + b"Transfer-Encoding: chunked\r\n\r\nZZZ\r\n", 411),
        (b"POST /handler/ping?" + b"&".join(b"a%d=1" % i for i in range(65)) + b" HTTP/1.0\r\n\r\n", 400),
    ],
)
def test_a_malformed_request_gets_its_status(address: str, data: bytes, status: int) -> None:
    assert raw(address, data).startswith(b"HTTP/1.1 %d " % status)
    assert post(address, "ping").body == b"pong"


@pytest.mark.parametrize("data", [b"POST /hand", PING, PING + b"Content-Length: 5\r\n\r\nab"])
def test_half_a_request_is_400(address: str, data: bytes) -> None:
    assert raw(address, data, half_close=True).startswith(b"HTTP/1.1 400 ")


def test_sixty_four_headers_and_a_megabyte_are_taken(address: str) -> None:
    head = PING + b"X-A: b\r\n" * 62 + b"Connection: close\r\nContent-Length: 1048576\r\n\r\n"
    assert raw(address, head + b"x" * (1 << 20)).startswith(b"HTTP/1.1 200 ")


def test_a_large_body_is_refused_and_the_refusal_arrives(address: str) -> None:
    size = 8 << 20
    out = raw(address, PING + b"Content-Length: %d\r\n\r\n" % size + b"x" * size)
    assert out.startswith(b"HTTP/1.1 413 ")


def test_expect_100_continue_is_answered(address: str) -> None:
    with connect(address) as sock:
        sock.sendall(PING + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"body")
        assert sock.recv(1000).endswith(b"pong")


def test_clients_that_send_nothing_or_too_slowly_are_closed(address: str) -> None:
    """5 s to send a request, 2 s between two: silence, a body that never comes, a byte at a time."""
    began = time.monotonic()
    with connect(address) as silent, connect(address) as bodiless, connect(address) as dripping:
        with connect(address) as idle:
            idle.sendall(PING + b"\r\n")
            assert idle.recv(1000).endswith(b"pong")
            assert idle.recv(1000) == b""  # closed by the server
            assert time.monotonic() - began > 1.5
        bodiless.sendall(PING + b"Content-Length: 10\r\n\r\nabc")
        dripping.sendall(PING + b"X-A: ")
        answer = b""
        dripping.settimeout(0.1)
        while not answer:
            assert time.monotonic() - began < 90
            dripping.send(b"a")
            try:
                answer = dripping.recv(1000)
            except TimeoutError:
                pass
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert bodiless.recv(1000).startswith(b"HTTP/1.1 408 ")
        assert silent.recv(1000) == b""
    wait_until(lambda: connection_threads() == 0)


def test_clients_that_hang_up_leave_no_thread(address: str) -> None:
    for data in (b"", b"PO", PING, PING + b"\r\n"):
        for _ in range(5):
            with connect(address) as sock:
                sock.sendall(data)
    wait_until(lambda: connection_threads() == 0)
    assert post(address, "ping").status == 200


def test_garbage_never_hurts(address: str) -> None:
    source = random.Random(7)
    for index in range(150):
        blob = source.randbytes(source.choice([1, 7, 100, 4000, 70000]))
        raw(address, (PING + blob + b"\r\n\r\n", blob + b"\r\n\r\n", blob)[index % 3], half_close=True)
    assert post(address, "ping").body == b"pong"
    wait_until(lambda: connection_threads() == 0)


def test_a_client_that_hangs_up_while_a_large_answer_is_written(address: str) -> None:
    with connect(address) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(b"POST /handler/large HTTP/1.1\r\n\r\n")
        sock.recv(1000)
    wait_until(lambda: connection_threads() == 0)
    assert post(address, "ping").status == 200
