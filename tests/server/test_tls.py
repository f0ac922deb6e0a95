"""TLS on TCP: what the server speaks and refuses, and that a client proves whom it talks to before it says a word."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from tests.asking import call
from tests.certificates import Certificates, certificates
from tests.eventually import wait_until
from tests.http_client import connect, post, raw
from tests.processes import python
from torchctl.cli import cli
from torchctl.commands.call import handler_names
from torchctl.errors import (
    AccessDeniedError,
    CertificateError,
    DeadlineError,
    NotAWorkerError,
    ServerError,
    UnreachableError,
)
from torchctl.protocol import MAX_CONNECTIONS, REQUEST_TIMEOUT_S
from torchctl.server import Request, Response, WorkerServer, handler
from torchctl.workers.ask.fanout import ask_all
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.questions.basic import ping

TOKEN = "a-token-of-twenty-bytes"


@handler("tls-large")
def large(request: Request, response: Response) -> None:
    response.set_content(b"x" * (8 << 20), "application/octet-stream")


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("pem"), "localhost", "127.0.0.1")


@pytest.fixture
def server(pem: Certificates) -> Iterator[WorkerServer]:
    with pem.server() as running:
        yield running


def endpoint(server: WorkerServer, ca: str, host: str = "127.0.0.1") -> Endpoint:
    return Endpoint(host=host, port=server.port, ca=ca)


def one(where: Endpoint, timeout_s: float = 10.0) -> bytes:
    return call(where, "ping", time.monotonic() + timeout_s).body


def many(where: Endpoint, timeout_s: float = 10.0) -> bytes:
    """Ask as one of several, which is done by other code: asyncio, and TLS on memory buffers."""
    other = Endpoint(host="127.0.0.1", port=1)
    outcome = ask_all([where, other], ping, time.monotonic() + timeout_s)[0]
    if outcome.error is not None:
        raise outcome.error
    assert outcome.value is not None
    return outcome.value.body


BOTH = pytest.mark.parametrize("ask", [one, many])
Asker = Callable[..., bytes]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="torchctl")


@BOTH
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_verified_worker_answers(server: WorkerServer, pem: Certificates, ask: Asker, host: str) -> None:
    assert ask(endpoint(server, pem.ca, host)) == b"pong"


@BOTH
def test_a_worker_of_another_authority_is_not_asked(server: WorkerServer, folder: Path, ask: Asker) -> None:
    other = certificates(folder / "other", "127.0.0.1")
    with pytest.raises(CertificateError, match="could not be verified as the worker: ") as caught:
        ask(endpoint(server, other.ca))
    assert caught.value.exit_code == 3


@BOTH
def test_a_certificate_for_another_name_is_refused(folder: Path, ask: Asker) -> None:
    pem = certificates(folder / "pem", "node7.example")
    with pem.server() as server, pytest.raises(CertificateError, match=r"127\.0\.0\.1"):
        ask(endpoint(server, pem.ca))


@BOTH
def test_without_tls_the_client_is_told_what_to_do(server: WorkerServer, ask: Asker) -> None:
    with pytest.raises(AccessDeniedError, match="requires TLS") as caught:
        ask(endpoint(server, ""))
    assert "--ca" in caught.value.hint


@BOTH
def test_a_plain_server_does_not_speak_tls(pem: Certificates, ask: Asker) -> None:
    with WorkerServer("127.0.0.1", 0) as plain, pytest.raises(NotAWorkerError, match="does it use TLS at all"):
        ask(endpoint(plain, pem.ca))


@BOTH
def test_a_handshake_that_never_comes_ends_at_the_deadline(pem: Certificates, ask: Asker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(DeadlineError, match="did not answer within"):
            ask(Endpoint(host="127.0.0.1", port=silent.getsockname()[1], ca=pem.ca), 0.5)
        assert time.monotonic() - began < 60


@BOTH
def test_no_word_of_the_token_reaches_a_worker_that_is_not_proved(
    pem: Certificates, folder: Path, ask: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHCTL_TOKEN", TOKEN)
    other = certificates(folder / "other", "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(other.cert, other.key)
    heard: list[bytes] = []

    def serve() -> None:
        connection, _ = listener.accept()
        connection.settimeout(10)
        try:
            with context.wrap_socket(connection, server_side=True) as secured:
                heard.append(secured.recv(65536))
        except OSError:
            heard.append(b"")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(CertificateError):
            ask(Endpoint(host="127.0.0.1", port=listener.getsockname()[1], ca=pem.ca))
        thread.join(20)
    assert heard == [b""]


@BOTH
def test_token_and_tls_together(pem: Certificates, ask: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHCTL_TOKEN", TOKEN)
    with pem.server("0.0.0.0") as server:
        assert ask(endpoint(server, pem.ca)) == b"pong"
        monkeypatch.setenv("TORCHCTL_TOKEN", TOKEN + "x")
        with pytest.raises(AccessDeniedError, match="did not accept ours"):
            ask(endpoint(server, pem.ca))


@BOTH
@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\n\r\npo", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npo", b""]
)
def test_an_answer_that_is_cut_on_the_way_is_none(pem: Certificates, ask: Asker, answer: bytes) -> None:
    """Also without a length, where in the clear the connection's end is the body's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem.cert, pem.key)

    def serve() -> None:
        connection, _ = listener.accept()
        connection.settimeout(10)
        with context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(65536)
            secured.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(UnreachableError, match="closed the connection without a full answer"):
            ask(Endpoint(host="127.0.0.1", port=listener.getsockname()[1], ca=pem.ca))
        thread.join(20)


def test_a_large_answer_comes_whole(server: WorkerServer, pem: Certificates) -> None:
    assert len(call(endpoint(server, pem.ca), "tls-large", time.monotonic() + 30).body) == 8 << 20


def test_plain_http_gets_one_sentence_and_no_identity(server: WorkerServer) -> None:
    answer = raw(f"127.0.0.1:{server.port}", b"POST /handler/ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 426 ")
    assert b"this port speaks TLS" in answer
    assert b"Torchctl-Pid" not in answer


def test_garbage_and_half_handshakes_leave_no_thread(server: WorkerServer) -> None:
    address = f"127.0.0.1:{server.port}"
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    for data in (b"", b"\x16", hello, hello + os.urandom(600), b"\x16" + os.urandom(4000), os.urandom(500)):
        for _ in range(5):
            raw(address, data, half_close=True)
    wait_until(lambda: not any(thread.name == "torchctl-conn" for thread in threading.enumerate()))


def test_a_handshake_has_the_time_of_one_request(server: WorkerServer) -> None:
    began = time.monotonic()
    with connect(f"127.0.0.1:{server.port}", 60) as sock:
        sock.sendall(b"\x16\x03\x01")
        assert sock.recv(10) == b""
    assert REQUEST_TIMEOUT_S / 2 < time.monotonic() - began < 90


def test_connections_that_never_shake_hands_make_room(server: WorkerServer, pem: Certificates) -> None:
    held = [connect(f"127.0.0.1:{server.port}") for _ in range(2 * MAX_CONNECTIONS)]
    try:
        for sock in held[::2]:
            try:
                sock.sendall(b"\x16\x03\x01")
            except OSError:
                pass  # made room already
        for _ in range(5):
            assert one(endpoint(server, pem.ca)) == b"pong"
    finally:
        for sock in held:
            sock.close()


def test_a_hang_up_does_not_kill_a_program_that_restored_sigpipe(pem: Certificates) -> None:
    code = (
        "import signal, sys, torchctl.server as s\nsignal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
        "@s.handler('large')\ndef large(request, response):\n    response.set_content(b'x' * (8 << 20), 'a/b')\n"
        f"server = s.WorkerServer('127.0.0.1', 0, tls_cert={pem.cert!r}, tls_key={pem.key!r})\n"
        "print(server.port, flush=True)\nsys.stdin.readline()\n"
    )
    context = ssl.create_default_context(cafile=pem.ca)
    with python(code) as process:
        port = int(process.line())
        for _ in range(10):
            with context.wrap_socket(connect(f"127.0.0.1:{port}"), server_hostname="localhost") as sock:
                sock.sendall(b"POST /handler/large HTTP/1.1\r\nHost: localhost\r\n\r\n")
                sock.recv(10)
        assert one(Endpoint(host="127.0.0.1", port=port, ca=pem.ca)) == b"pong"
        process.tell("end")
        assert process.finish() == (0, "", "")


@pytest.mark.parametrize(
    ("cert", "key", "words"),
    [
        ("cert", "ca", "cannot be used"),
        ("none", "key", "cannot be used: No such file"),
        ("key", "key", "cannot be used"),
    ],
)
def test_a_certificate_that_does_not_fit_is_refused(pem: Certificates, cert: str, key: str, words: str) -> None:
    paths = {**pem._asdict(), "none": "/nowhere/cert.pem"}
    os.chmod(paths["ca"], 0o600)
    with pytest.raises(ServerError, match=words):
        WorkerServer("127.0.0.1", 0, tls_cert=paths[cert], tls_key=paths[key])


def test_the_command_line_takes_ca_and_token_file(server: WorkerServer, pem: Certificates, folder: Path) -> None:
    where = ["--host", f"127.0.0.1:{server.port}"]
    assert run("ping", *where, "--ca", pem.ca).exit_code == 0
    assert run("ps", *where, *where, "--host", f"localhost:{server.port}", "--ca", pem.ca).exit_code == 0
    assert "requires TLS" in run("ping", *where).stderr
    (folder / "token").write_text(TOKEN)
    for mode, code in ((0o600, 0), (0o644, 1)):
        (folder / "token").chmod(mode)
        result = run("ping", *where, "--ca", pem.ca, "--token-file", str(folder / "token"))
        assert result.exit_code == code, result.stderr
    for ca, words in (("none", "cannot be read: No such file"), ("token", "has no certificate")):
        result = run("ping", *where, "--ca", str(folder / ca))
        assert (result.exit_code, words in result.stderr) == (1, True), result.stderr


def test_a_tab_says_nothing_in_the_clear_where_tls_is_asked_for(
    pem: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHCTL_TOKEN", TOKEN)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        context = click.Context(click.Command("call"))
        context.params = {"hosts": (Endpoint(host="127.0.0.1", port=listener.getsockname()[1]),), "ca": pem.ca}
        assert handler_names(context, click.Option(["--x"]), "") == []
        listener.setblocking(False)
        heard = b""
        with contextlib.suppress(BlockingIOError):  # on a very slow machine a Tab's time is over before it connects
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                heard = connection.recv(1)
    assert heard in (b"\x16", b"")


def test_ssl_is_not_set_up_without_tls() -> None:
    code = (
        "import sys, torchctl.server as s\nserver = s.WorkerServer('127.0.0.1', 0)\n"
        "from tests.asking import call\nfrom torchctl.workers.endpoint import Endpoint\nimport time\n"
        "call(Endpoint(host='127.0.0.1', port=server.port), 'ping', time.monotonic() + 20)\n"
        "tls = {'torchctl.workers.ask.tls', 'torchctl.server.http.tls', 'torchctl.protocol.secretfile'}\n"
        "print(tls & set(sys.modules))\n"
    )
    with python(code) as process:
        assert process.finish() == (0, "set()\n", "")


@pytest.mark.usefixtures("with_sentinel")
def test_what_speaks_tls_is_not_shared_with_the_sentinel_and_info_says_so(pem: Certificates, folder: Path) -> None:
    path = str(folder / "s")

    def serves() -> list[str]:
        return list(json.loads(post(path, "info").body)["sentinel_serves"])

    with pem.server() as secured, WorkerServer(path), WorkerServer("127.0.0.1", 0) as plain:
        assert secured.tls
        wait_until(lambda: serves() == [path, plain.address], 20)
        sentinel = json.loads(post(path, "info").body)["sentinel"]
        inode = os.readlink(f"/proc/self/fd/{secured._listeners[0].socket.fileno()}")
        held = {os.readlink(f"/proc/{sentinel}/fd/{number}") for number in os.listdir(f"/proc/{sentinel}/fd")}
        assert inode not in held
