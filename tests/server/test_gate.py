"""Who may ask: the peer of a Unix socket, tokens and wrong ones, web pages on loopback, read-only servers."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.asking import call
from tests.eventually import wait_until
from tests.http_client import Reply, connect, post, request
from torchctl import protocol
from torchctl.errors import AccessDeniedError, HandlerError, SecretFileError, ServerError
from torchctl.protocol import MAX_CONNECTIONS, WRONG_TOKEN_DELAY_S
from torchctl.server import Request, Response, WorkerServer, handler
from torchctl.server.guest import guesses
from torchctl.workers.endpoint import Endpoint

TOKEN = "a-token-of-twenty-bytes"


@handler("gate-costly")
def costly(request: Request, response: Response) -> None:
    response.set_content("done", "text/plain")


@handler("gate-harmless", costly=False)
def harmless(request: Request, response: Response) -> None:
    response.set_content("seen", "text/plain")


@pytest.fixture
def server() -> Iterator[WorkerServer]:
    with WorkerServer("127.0.0.1", 0) as running:
        yield running


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerServer]:
    """A server with a token, in a process that has seen no wrong one yet."""
    monkeypatch.setenv("TORCHCTL_TOKEN", TOKEN)
    monkeypatch.setattr(guesses, "total", 0)
    with WorkerServer("127.0.0.1", 0) as running:
        yield running


def serving() -> int:
    return sum(thread.name == "torchctl-conn" for thread in threading.enumerate())


def ask(server: WorkerServer, **headers: str) -> Reply:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return request(f"127.0.0.1:{server.port}", "POST", "/handler/ping", headers=fields)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_uid_is_refused_even_where_the_files_mode_lets_it_in(folder: Path) -> None:
    code = (
        "import os, sys, time\nfrom tests.asking import call\n"
        "from torchctl.workers.endpoint import Endpoint\nfrom torchctl.errors import AccessDeniedError\n"
        "os.setuid(65534)\n"
        "try: call(Endpoint(path=sys.argv[1]), 'ping', time.monotonic() + 10)\n"
        "except AccessDeniedError as error: print(error)\n"
    )
    folder.chmod(0o755)
    with WorkerServer(str(folder / "s")):
        (folder / "s").chmod(0o666)
        arguments = [sys.executable, "-c", code, str(folder / "s")]
        out = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
        assert post(str(folder / "s"), "ping").body == b"pong"
    assert out.stdout == f"{folder}/s denied access: this socket only serves uid 0 and root, not uid 65534\n", (
        out.stderr
    )


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "127.0.0.1:1", "127.1.2.3", "[::1]:5", "localhost.", socket.gethostname()]
)
def test_loopback_is_called_by_its_own_names(server: WorkerServer, host: str) -> None:
    assert ask(server, Host=host).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:25000", "127.0.0.1.evil.example", "10.0.0.1", "0.0.0.0", ""]
)
def test_on_loopback_a_foreign_host_is_refused(server: WorkerServer, host: str) -> None:
    reply = ask(server, Host=host)
    assert (reply.status, reply.body[:31]) == (403, b"the Host header names another h")
    assert "Torchctl-Pid" not in reply.headers


def test_a_proxys_absolute_target_counts_as_host(server: WorkerServer) -> None:
    def status(target: str) -> int:
        return request(f"127.0.0.1:{server.port}", "POST", target, headers={"Host": "localhost"}).status

    assert status("http://evil.example/handler/ping") == 403
    assert status("http://localhost:1/handler/ping") == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:8888", "http://127.0.0.1"])
def test_a_web_page_of_another_origin_cannot_post(server: WorkerServer, origin: str) -> None:
    reply = ask(server, Host="localhost:7", Origin=origin)
    assert (reply.status, reply.body[:26]) == (403, b"the Origin header names an")


def test_a_page_of_the_server_itself_may_ask(server: WorkerServer) -> None:
    assert ask(server, Host="localhost:7", Origin="http://localhost:7").status == 200


def test_a_unix_socket_takes_any_host_and_origin(folder: Path) -> None:
    with WorkerServer(str(folder / "s")) as server:
        headers = {"Host": "evil.example", "Origin": "https://evil.example"}
        assert request(server.address, "POST", "/handler/ping", headers=headers).status == 200


def test_beyond_loopback_the_token_decides_and_any_host_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHCTL_TOKEN", TOKEN)
    with WorkerServer("0.0.0.0", 0) as server:
        assert ask(server, Host="node7", Authorization=f"Bearer {TOKEN}").status == 200
        assert ask(server, Host="node7").status == 401


def test_the_command_line_says_what_a_foreign_host_is_refused_for(server: WorkerServer) -> None:
    with pytest.raises(AccessDeniedError, match="denied access: the Host header names another host") as caught:
        call(Endpoint(host="0.0.0.0", port=server.port), "ping", time.monotonic() + 10)
    assert "127.0.0.1" in caught.value.hint


@pytest.mark.parametrize("by_environment", [False, True])
def test_a_read_only_server_has_no_costly_handler(
    folder: Path, monkeypatch: pytest.MonkeyPatch, by_environment: bool
) -> None:
    if by_environment:
        monkeypatch.setenv("TORCHCTL_READ_ONLY", "1")
    with WorkerServer(str(folder / "s"), read_only=not by_environment) as server:
        for name in ("torch_profile", "pyspy_dump", "gate-costly"):
            assert post(server.address, name).status == 403
            assert b'"%s"' % name.encode() not in request(server.address, "GET", "/handler/").body
        for name in ("ping", "info", "dump_traceback", "dump_nccl_trace_json", "fr_trace_pickle", "gate-harmless"):
            assert post(server.address, name).status == 200, name
        assert post(server.address, "nonexistent").status == 403
        expected = pytest.raises(HandlerError, match="Handler gate-costly is turned off: this server is read-only")
        with expected:
            call(Endpoint(path=server.address), "gate-costly", time.monotonic() + 10)


def test_without_read_only_costly_handlers_are_served(folder: Path) -> None:
    with WorkerServer(str(folder / "s")) as server:
        assert post(server.address, "gate-costly").body == b"done"
        assert b'"torch_profile"' in request(server.address, "GET", "/handler/").body


def test_each_wrong_token_waits_the_same_time_and_is_counted(guarded: WorkerServer) -> None:
    for count in (1, 2, 3):
        began = time.monotonic()
        assert ask(guarded, Authorization="Bearer wrong").status == 401
        assert time.monotonic() - began >= WRONG_TOKEN_DELAY_S
        assert guesses.total == count
    assert ask(guarded).status == 401  # no token at all is no guess
    info = request(f"127.0.0.1:{guarded.port}", "POST", "/handler/info", headers={"Authorization": f"Bearer {TOKEN}"})
    assert b'"wrong_tokens":3' in info.body


def test_the_right_token_waits_for_no_wrong_one(guarded: WorkerServer) -> None:
    wrong = f"POST /handler/ping HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}x\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(connect(f"127.0.0.1:{guarded.port}")) for _ in range(MAX_CONNECTIONS // 2)]
        for sock in waiting:
            sock.sendall(wrong)
        wait_until(lambda: guesses.total == len(waiting))
        for _ in range(20):
            assert ask(guarded, Authorization=f"Bearer {TOKEN}").status == 200
        for sock in waiting:
            assert sock.recv(4096).startswith(b"HTTP/1.1 401 ")


def test_guesses_make_room_for_who_comes_next(guarded: WorkerServer) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(2 * MAX_CONNECTIONS):
            sock = stack.enter_context(connect(f"127.0.0.1:{guarded.port}"))
            sock.sendall(b"POST /handler/ping HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer wrong\r\n\r\n")
        assert ask(guarded, Authorization=f"Bearer {TOKEN}").status == 200


def test_a_client_that_is_kept_waiting_ends_with_the_server(
    guarded: WorkerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "WRONG_TOKEN_DELAY_S", 600.0)
    with connect(f"127.0.0.1:{guarded.port}") as sock:
        sock.sendall(b"POST /handler/ping HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer wrong\r\n\r\n")
        wait_until(lambda: guesses.total == 1)
        guarded.shutdown()
        wait_until(lambda: serving() == 0)


def test_the_token_may_come_from_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / "token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o600)
    with WorkerServer("0.0.0.0", 0, token_file=str(file)) as server:
        assert ask(server).status == 401
        assert ask(server, Authorization=f"Bearer {TOKEN}").status == 200
    monkeypatch.setenv("TORCHCTL_TOKEN_FILE", str(file))
    monkeypatch.setenv("TORCHCTL_TOKEN", "another-token-of-20-bytes")
    with WorkerServer("127.0.0.1", 0) as server:
        assert ask(server, Authorization=f"Bearer {TOKEN}").status == 200


@pytest.mark.parametrize(
    ("mode", "text", "words"),
    [
        (0o644, TOKEN, r"is open to others \(mode 0644\)"),
        (0o640, TOKEN, r"is open to others \(mode 0640\)"),
        (0o602, TOKEN, r"is open to others \(mode 0602\)"),
        (0o600, "hunter2", "is shorter than 16 bytes"),
        (0o600, "hunter2" * 1000, "is longer than 4096 bytes"),
        (0o600, "hunter2 and a blank and more", "visible ASCII only"),
        (0o600, "", "is shorter than 16 bytes"),
    ],
)
def test_a_token_file_that_others_can_read_or_that_holds_none_is_refused(
    folder: Path, mode: int, text: str, words: str
) -> None:
    file = folder / "token"
    file.write_text(text)
    file.chmod(mode)
    with pytest.raises(SecretFileError, match=words) as caught:
        WorkerServer("127.0.0.1", 0, token_file=str(file))
    assert "hunter2" not in f"{caught.value}{caught.value.hint}"


def test_a_missing_token_file_and_a_folder_are_refused(folder: Path) -> None:
    with pytest.raises(SecretFileError, match="cannot be read: No such file"):
        WorkerServer("127.0.0.1", 0, token_file=str(folder / "none"))
    with pytest.raises(SecretFileError, match="cannot be read: Is a directory"):
        WorkerServer("127.0.0.1", 0, token_file=str(folder))


def test_half_of_tls_is_refused(folder: Path) -> None:
    with pytest.raises(ServerError, match="needs both a certificate and its key"):
        WorkerServer("127.0.0.1", 0, tls_cert=str(folder / "cert.pem"))
