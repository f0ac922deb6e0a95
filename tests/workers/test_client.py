"""One worker: the answer, or the right error before the deadline, whatever listens there."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests import listeners
from tests.asking import call
from tests.listeners import listening
from torchctl.errors import (
    AccessDeniedError,
    BusyError,
    DeadlineError,
    HandlerError,
    NoSuchHandlerError,
    NoSuchSocketError,
    NotAWorkerError,
    RefusedError,
    TooLargeError,
    UnknownHostError,
    UnreachableError,
    WorkerError,
)
from torchctl.server import Request, Response, WorkerServer, handler
from torchctl.workers.ask.fanout import ask_all
from torchctl.workers.ask.one import send
from torchctl.workers.ask.request import Request as Asked
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.questions import basic

TOKEN = "a-token-of-twenty-bytes"


@handler("client-echo")
def client_echo(request: Request, response: Response) -> None:
    response.set_content(repr(sorted(request.params().items())).encode() + request.body(), "text/plain")


@handler("client-failing")
def client_failing(request: Request, response: Response) -> None:
    raise RuntimeError("out of luck\x1b[31m")


def ping(endpoint: Endpoint, timeout_s: float = 10.0, max_bytes: int = 1 << 20) -> bytes:
    return call(endpoint, "ping", time.monotonic() + timeout_s, max_bytes=max_bytes).body


def test_an_answer_over_both_transports(folder: Path) -> None:
    with WorkerServer(str(folder / "s")), WorkerServer("", 0) as tcp:
        for endpoint in (Endpoint(path=str(folder / "s")), Endpoint(host="localhost", port=tcp.port)):
            reply = call(endpoint, "ping", time.monotonic() + 10)
            assert (reply.status, reply.body, reply.pid, reply.rank) == (200, b"pong", os.getpid(), None)
            assert 0 < reply.elapsed_s < 60


def test_parameters_and_body_arrive(folder: Path) -> None:
    with WorkerServer(str(folder / "s")):
        reply = call(
            Endpoint(path=str(folder / "s")),
            "client-echo",
            time.monotonic() + 10,
            params={"a": "1 &", "ü": ""},
            body=b"!",
        )
    assert reply.body.decode() == "[('a', '1 &'), ('ü', '')]!"


def test_a_failing_and_a_missing_handler(folder: Path) -> None:
    with WorkerServer(str(folder / "s")):
        endpoint = Endpoint(path=str(folder / "s"), rank=3)
        with pytest.raises(
            HandlerError, match="rank 3: .*answered HTTP 500: Handler client-failing failed: out of luck"
        ):
            call(endpoint, "client-failing", time.monotonic() + 10)
        with pytest.raises(NoSuchHandlerError, match="has no handler 'nö/pe'"):
            call(endpoint, "nö/pe", time.monotonic() + 10)


def test_no_file_refused_and_no_socket(folder: Path) -> None:
    with pytest.raises(NoSuchSocketError, match="does not exist"):
        ping(Endpoint(path=str(folder / "none")))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "dead"))
    with pytest.raises(RefusedError, match="refused the connection"):
        ping(Endpoint(path=str(folder / "dead")))
    (folder / "file").write_text("")
    with pytest.raises(NotAWorkerError, match="is not a socket"):
        ping(Endpoint(path=str(folder / "file")))
    with pytest.raises(NoSuchSocketError):
        ping(Endpoint(path=str(folder / "file" / "s")))
    with pytest.raises(NoSuchSocketError, match="the system allows 107 bytes"):
        ping(Endpoint(path="/tmp/" + "x" * 200))


def test_a_datagram_socket_is_no_worker(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(folder / "d"))
        with pytest.raises(NotAWorkerError, match="different type of socket"):
            ping(Endpoint(path=str(folder / "d")))


def test_a_port_without_a_listener_and_an_unknown_name() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(RefusedError):
            ping(Endpoint(host="127.0.0.1", port=unused.getsockname()[1]))
    with pytest.raises(UnknownHostError, match="nowhere.invalid:1 cannot be resolved"):
        ping(Endpoint(host="nowhere.invalid", port=1))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_users_socket_is_a_permission_error(folder: Path) -> None:
    folder.chmod(0o755)
    code = (
        "import os, sys, time\nfrom tests.asking import call\n"
        "from torchctl.workers.endpoint import Endpoint\nfrom torchctl.errors import AccessDeniedError\n"
        "os.setuid(65534)\n"
        "try: call(Endpoint(path=sys.argv[1]), 'ping', time.monotonic() + 10)\n"
        "except AccessDeniedError as error: print(error)\n"
    )
    with WorkerServer(str(folder / "s")):
        arguments = [sys.executable, "-c", code, str(folder / "s")]
        out = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert out.stdout == f"{folder}/s cannot be opened by this user\n", out.stderr


@pytest.mark.parametrize(
    ("serve", "kind"),
    [
        (listeners.saying(b""), UnreachableError),
        (listeners.saying(b"SSH-2.0-OpenSSH_9.2\r\n"), NotAWorkerError),
        (listeners.saying(b"\x00\xff" * 1000), NotAWorkerError),
        (listeners.saying(b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 100_000), NotAWorkerError),
        (listeners.saying(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 1000 + b"\r\n"), NotAWorkerError),
        (listeners.saying(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"), UnreachableError),
        (listeners.saying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n"), WorkerError),
        (listeners.reply(b"<h1>nginx</h1>", status="404 Not Found"), NotAWorkerError),
        (listeners.reply(b"", status="302 Found", headers=b"Location: http://127.0.0.1:1/\r\n"), NotAWorkerError),
        (listeners.reply(b"no", status="401 Unauthorized"), AccessDeniedError),
        (listeners.reply(b"all connections of this server are in use", status="503 Busy"), BusyError),
        (listeners.reply(b"sorry", status="503 Busy"), HandlerError),
    ],
)
def test_what_is_no_good_answer_is_a_typed_error(folder: Path, serve: listeners.Serve, kind: type[WorkerError]) -> None:
    with listening(str(folder / "s"), serve), pytest.raises(WorkerError) as caught:
        assert ping(Endpoint(path=str(folder / "s"))) == b"pong"
    assert type(caught.value) is kind or kind is WorkerError, repr(caught.value)
    assert str(folder / "s") in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("serve", [listeners.silent, listeners.dripping])
def test_the_deadline_holds_over_the_whole_reply(folder: Path, serve: listeners.Serve) -> None:
    began = time.monotonic()
    with listening(str(folder / "s"), serve):
        with pytest.raises(DeadlineError, match="accepted the connection and did not answer within [0-9.]+m?s"):
            ping(Endpoint(path=str(folder / "s")), timeout_s=1)
        assert time.monotonic() - began < 60


def test_a_full_backlog_is_waited_for_and_then_busy(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "s"))
        server.listen(0)
        held = []
        try:
            for _ in range(3):
                waiting = socket.socket(socket.AF_UNIX)
                waiting.setblocking(False)
                held.append(waiting)
                try:
                    waiting.connect(str(folder / "s"))
                except BlockingIOError:
                    break
            began = time.monotonic()
            with pytest.raises(BusyError, match="its queue of waiting connections is full"):
                ping(Endpoint(path=str(folder / "s")), timeout_s=0.3)
            assert 0.2 < time.monotonic() - began < 60
        finally:
            for waiting in held:
                waiting.close()


def test_a_reply_over_the_limit_is_cut_off(folder: Path) -> None:
    expected = pytest.raises(TooLargeError, match="sent more than 1048576 bytes")
    with listening(str(folder / "s"), listeners.flooding), expected:
        ping(Endpoint(path=str(folder / "s")))


def test_a_compressed_reply_is_not_unfolded(folder: Path) -> None:
    import gzip

    bomb = gzip.compress(bytes(10 << 20))
    with listening(str(folder / "s"), listeners.reply(bomb, headers=b"Content-Encoding: gzip\r\n")):
        assert ping(Endpoint(path=str(folder / "s"))) == bomb


def test_hostile_rank_headers_are_unknown_ranks(folder: Path) -> None:
    for value in (b"-1", b"1e9", b"9" * 400, b"\xb2", b"3, 4"):
        with listening(str(folder / "s"), listeners.reply(b"pong", headers=b"Torchctl-Rank: " + value + b"\r\n")):
            assert call(Endpoint(path=str(folder / "s")), "ping", time.monotonic() + 10).rank is None
        (folder / "s").unlink()


def test_the_token_goes_to_tcp_addresses_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHCTL_TOKEN", TOKEN)
    with WorkerServer("127.0.0.1", 0) as server:
        assert ping(Endpoint(host="127.0.0.1", port=server.port)) == b"pong"
        monkeypatch.setenv("TORCHCTL_TOKEN", TOKEN + "\n")
        assert ping(Endpoint(host="127.0.0.1", port=server.port)) == b"pong"
        monkeypatch.setenv("TORCHCTL_TOKEN", "a b")
        with pytest.raises(AccessDeniedError, match="TORCHCTL_TOKEN has characters"):
            ping(Endpoint(host="127.0.0.1", port=server.port))
        monkeypatch.setenv("TORCHCTL_TOKEN", "another-token-of-20-bytes")
        with pytest.raises(AccessDeniedError) as caught:
            ping(Endpoint(host="127.0.0.1", port=server.port))
        assert "another-token" not in str(caught.value) + caught.value.hint
    seen: list[bytes] = []

    def note(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong")

    def read(connection: socket.socket) -> None:
        seen.append(connection.recv(65536))
        note(connection)

    with listening(str(folder / "s"), read, read_first=False):
        assert send(Endpoint(path=str(folder / "s")), Asked("POST", "/"), time.monotonic() + 10).body == b"pong"
    assert b"uthorization" not in seen[0]


def test_a_redirect_is_not_followed_and_takes_no_token_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHCTL_TOKEN", TOKEN)
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        second.setblocking(False)
        place = f"http://127.0.0.1:{second.getsockname()[1]}/handler/ping"

        def redirect() -> None:
            for _ in range(2):
                connection, _ = first.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(
                        f"HTTP/1.1 307 Temporary\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n".encode()
                    )

        thread = threading.Thread(target=redirect, daemon=True)
        thread.start()
        where = Endpoint(host="127.0.0.1", port=first.getsockname()[1])
        with pytest.raises(NotAWorkerError, match="it answered HTTP 307"):
            ping(where)
        outcomes = ask_all([where, Endpoint(path="/none")], basic.ping, time.monotonic() + 10)
        assert "it answered HTTP 307" in str(outcomes[0].error)
        thread.join(10)
        with pytest.raises(BlockingIOError):
            second.accept()
