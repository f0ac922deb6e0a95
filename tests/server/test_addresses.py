"""Where a server may listen, what it may replace, and what it leaves behind."""

import os
import socket
import stat
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.http_client import connect, post, request
from torchctl.errors import AddressInUseError, ServerError
from torchctl.server import WorkerServer

TOKEN = "0123456789abcdef-token"


def test_the_socket_file_is_for_its_owner_only_and_goes_with_the_server(folder: Path) -> None:
    path = folder / "s"
    umask = os.umask(0)
    try:
        with WorkerServer(str(path)) as server:
            status = path.lstat()
            assert stat.S_ISSOCK(status.st_mode)
            assert stat.S_IMODE(status.st_mode) == 0o600
            assert (server.port, server.address) == (-1, str(path))
    finally:
        os.umask(umask)
    assert not path.exists()


def test_shutdown_may_be_called_twice_and_is_quick_with_clients_connected(folder: Path) -> None:
    server = WorkerServer(str(folder / "s"))
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(server.address)) for _ in range(20)]
        clients[0].sendall(b"POST /handler/ping HTTP/1.1\r\n\r\n")
        clients[0].recv(1000)
        began = time.monotonic()
        server.shutdown()
        assert time.monotonic() - began < 60
        server.shutdown()
        try:
            assert clients[1].recv(1) == b""
        except ConnectionResetError:
            pass  # it was still waiting to be accepted
    assert os.listdir(folder) == []


def test_a_stale_socket_file_is_replaced(folder: Path) -> None:
    path = str(folder / "s")
    code = f"import os, torchctl.server as s; s.WorkerServer({path!r}); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == -9
    assert os.path.exists(path)
    with WorkerServer(path):
        assert post(path, "ping").body == b"pong"


def test_a_live_socket_is_an_error_that_names_its_owner(folder: Path) -> None:
    path = str(folder / "s")
    with WorkerServer(path):
        with pytest.raises(AddressInUseError, match=f"pid {os.getpid()} .uid {os.getuid()}"):
            WorkerServer(path)
        assert post(path, "ping").body == b"pong"


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_socket_is_never_removed(folder: Path, kind: str) -> None:
    path = folder / "s"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(folder / "elsewhere")
    with pytest.raises(ServerError, match="is not a socket; it was left alone"):
        WorkerServer(str(path))
    assert os.path.lexists(path)


def test_a_path_of_107_bytes_works_and_108_is_refused(folder: Path) -> None:
    longest = str(folder) + "/" + "s" * (107 - len(str(folder)) - 1)
    with WorkerServer(longest):
        assert post(longest, "ping").status == 200
    with pytest.raises(ServerError, match="has 108 bytes; the system allows 107"):
        WorkerServer(longest + "s")


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_an_impossible_path_is_refused(path: str) -> None:
    with pytest.raises(ServerError, match="cannot be empty or hold a NUL"):
        WorkerServer(path)


def test_a_missing_folder_is_named(folder: Path) -> None:
    with pytest.raises(ServerError, match="cannot listen on .*/none/s: No such file"):
        WorkerServer(str(folder / "none" / "s"))


def test_a_file_that_is_not_ours_any_more_stays(folder: Path) -> None:
    path = folder / "s"
    server = WorkerServer(str(path))
    path.unlink()
    path.write_text("somebody else's")
    server.shutdown()
    assert path.read_text() == "somebody else's"


def test_many_that_start_at_once_on_a_stale_path_leave_one_that_answers(folder: Path) -> None:
    path = str(folder / "s")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    code = (
        "import sys, torchctl.server as s\n"
        "sys.stdin.readline()\n"
        f"try: server = s.WorkerServer({path!r})\n"
        "except s.worker.AddressInUseError: print('taken', flush=True)\n"
        "else: print('mine', flush=True)\n"
        "sys.stdin.readline()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(4)]  # type: ignore[call-overload]
    try:
        for racer in racers:
            racer.stdin.write("go\n")
            racer.stdin.flush()
        said = sorted(racer.stdout.readline().strip() for racer in racers)
        assert said == ["mine", "taken", "taken", "taken"]
        assert post(path, "ping").body == b"pong"
    finally:
        for racer in racers:
            racer.communicate("stop\n", timeout=30)


def test_no_host_means_loopback_of_both_families() -> None:
    with WorkerServer("", 0) as server:
        assert server.port > 0
        assert post(f"127.0.0.1:{server.port}", "ping").body == b"pong"
        if socket.has_ipv6 and os.path.exists("/proc/net/if_inet6"):
            assert post(f"::1:{server.port}", "ping").body == b"pong"
        assert post(server.address, "ping").body == b"pong"


def test_a_taken_port_is_an_error() -> None:
    with (
        WorkerServer("127.0.0.1", 0) as server,
        pytest.raises(AddressInUseError, match=f"port {server.port}"),
    ):
        WorkerServer("127.0.0.1", server.port)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_other_interfaces_are_refused_without_a_token(host: str) -> None:
    with pytest.raises(ServerError, match="refusing to listen on .* without a token"):
        WorkerServer(host, 0)


def test_an_unknown_host_is_named() -> None:
    with pytest.raises(ServerError, match="'nowhere.invalid' cannot be resolved"):
        WorkerServer("nowhere.invalid", 0)


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        ("hunter2", "is shorter than 16 bytes"),
        ("hunter2-and-a-blank x", "visible ASCII only"),
        ("hunter2-é" * 3, "ASCII"),
    ],
)
def test_a_bad_token_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch, token: str, problem: str) -> None:
    monkeypatch.setenv("TORCHCTL_TOKEN", token)
    with pytest.raises(ServerError, match=f"TORCHCTL_TOKEN .*{problem}") as caught:
        WorkerServer("127.0.0.1", 0)
    assert "hunter2" not in f"{caught.value}{caught.value.hint}"


def test_a_token_may_end_in_a_newline_as_files_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHCTL_TOKEN", TOKEN + "\n")
    with WorkerServer("127.0.0.1", 0) as server:
        reply = request(server.address, "POST", "/handler/ping", headers={"Authorization": f"Bearer {TOKEN}"})
        assert reply.status == 200


@pytest.mark.parametrize("port", [-2, 65536, 70000])
def test_an_impossible_port_is_refused(port: int) -> None:
    with pytest.raises(ServerError, match="is not a TCP port"):
        WorkerServer("127.0.0.1", port)


def test_with_a_token_every_tcp_request_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHCTL_TOKEN", TOKEN)
    with WorkerServer("0.0.0.0", 0) as server:
        address = f"127.0.0.1:{server.port}"
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": TOKEN},
            {"Authorization": "B\xff"},
        ):
            reply = request(address, "POST", "/handler/ping", headers=headers)
            assert reply.status == 401
            assert TOKEN.encode() not in reply.body
        reply = request(address, "POST", "/handler/ping", headers={"Authorization": f"Bearer {TOKEN}"})
        assert (reply.status, reply.body) == (200, b"pong")
        assert request(address, "GET", "/").status == 401


def test_a_unix_socket_needs_no_token(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("TORCHCTL_TOKEN", TOKEN)
    with WorkerServer(str(folder / "s")) as server:
        assert post(server.address, "ping").status == 200
