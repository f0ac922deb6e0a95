"""Routes, statuses and texts: those of torch's own worker server."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http_client import connect, post, raw, request
from torchctl import __version__
from torchctl.server import (
    Request,
    Response,
    WorkerServer,
    get_handler,
    get_handler_names,
    handler,
    register_handler,
)
from torchctl.server.guest import step
from torchctl.server.http.head import status_line


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    with WorkerServer(str(folder / "s")) as server:
        yield server.address


@handler("echo")
def echo(request: Request, response: Response) -> None:
    response.set_content(
        json.dumps({"params": request.params(), "body": request.body().decode(), "x": request.get_param("x")}),
        "application/json",
    )


@handler("teapot")
def teapot(request: Request, response: Response) -> None:
    response.set_content(b"\x00\xff", "application/x-tea")
    response.set_status(418)


@handler("raising")
def raising(request: Request, response: Response) -> None:
    response.set_content("half an answer", "text/plain")
    raise RuntimeError("boom")


@handler("exiting")
def exiting(request: Request, response: Response) -> None:
    raise SystemExit(3)


@handler("header-injection")
def header_injection(request: Request, response: Response) -> None:
    response.set_content("x", "text/plain\r\nX-Evil: 1")


def test_the_index_page_is_torchs(address: str) -> None:
    reply = request(address, "GET", "/")
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "text/html"
    assert reply.body == (b'<h1>torch.distributed.WorkerServer</h1>\n<a href="/handler/">Handler names</a>\n')


def test_ping_answers_pong(address: str) -> None:
    reply = post(address, "ping")
    assert (reply.status, reply.body, reply.headers["Content-Type"]) == (200, b"pong", "text/plain")


def test_handler_names_are_a_json_list(address: str) -> None:
    reply = request(address, "GET", "/handler/")
    assert reply.status == 200
    names = json.loads(reply.body)
    assert names == sorted(names)
    assert {"ping", "info", "dump_traceback", "fr_trace_json", "echo"} <= set(names)


def test_an_unknown_handler_is_404_in_torchs_words(address: str) -> None:
    reply = post(address, "nonexistent")
    assert reply.status == 404
    assert reply.body == b"Handler nonexistent not found: Failed to find handler nonexistent"


def test_an_unknown_route_is_404_and_lists_the_routes(address: str) -> None:
    reply = request(address, "GET", "/metrics")
    assert reply.status == 404
    assert b"GET /handler/, POST /handler/NAME" in reply.body


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("GET", "/handler/ping", "POST"), ("POST", "/", "GET, HEAD"), ("DELETE", "/handler/", "GET, HEAD")],
)
def test_the_wrong_method_is_405(address: str, method: str, path: str, allow: str) -> None:
    reply = request(address, method, path)
    assert reply.status == 405
    assert reply.headers["Allow"] == allow


def test_head_has_the_length_and_no_body(address: str) -> None:
    reply = request(address, "HEAD", "/")
    assert (reply.status, reply.headers["Content-Length"], reply.body) == (200, "78", b"")


def test_a_handler_gets_parameters_and_body(address: str) -> None:
    reply = post(address, "echo?x=1&y=a%20b&x=2&empty=", b"data")
    assert json.loads(reply.body) == {"params": {"x": "1", "y": "a b", "empty": ""}, "body": "data", "x": "1"}


def test_a_form_body_gives_parameters_as_in_torch(address: str) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    reply = request(address, "POST", "/handler/echo?x=1", b"x=2&z=3", headers)
    assert json.loads(reply.body)["params"] == {"x": "1", "z": "3"}


def test_a_handler_sets_status_bytes_and_type(address: str) -> None:
    reply = post(address, "teapot")
    assert (reply.status, reply.body, reply.headers["Content-Type"]) == (
        418,
        b"\x00\xff",
        "application/x-tea",
    )


@pytest.mark.parametrize(("name", "message"), [("raising", b"boom"), ("exiting", b"3")])
def test_a_handler_that_raises_is_500_with_the_message(address: str, name: str, message: bytes) -> None:
    reply = post(address, name)
    assert reply.status == 500
    assert reply.body == b"Handler %s failed: %s" % (name.encode(), message)
    assert post(address, "ping").status == 200


def test_a_handler_cannot_inject_headers(address: str) -> None:
    reply = post(address, "header-injection")
    assert reply.status == 500
    assert "X-Evil" not in reply.headers


def test_every_reply_says_whose_it_is(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Torchctl-Rank" not in post(address, "ping").headers
    monkeypatch.setenv("RANK", "7")
    headers = post(address, "nonexistent").headers
    assert headers["Torchctl-Rank"] == "7"
    assert int(headers["Torchctl-Pid"]) > 0


def test_a_connection_serves_many_requests(address: str) -> None:
    with connect(address) as sock:
        for _ in range(3):
            sock.sendall(b"POST /handler/ping HTTP/1.1\r\nHost: x\r\n\r\n")
            assert sock.recv(65536).endswith(b"\r\n\r\npong")


def test_requests_may_be_sent_ahead(address: str) -> None:
    out = raw(address, b"POST /handler/ping HTTP/1.1\r\n\r\n" * 2 + b"POST /handler/ping HTTP/1.0\r\n\r\n")
    assert out.count(b"HTTP/1.1 200 OK") == 3


def test_http_1_0_gets_one_answer(address: str) -> None:
    out = raw(address, b"POST /handler/ping HTTP/1.0\r\n\r\n")
    assert b"Connection: close" in out
    assert out.endswith(b"pong")


def test_names_are_unique_and_fit_a_path() -> None:
    with pytest.raises(ValueError, match="Handler ping is already registered"):
        register_handler("ping", echo)
    for name in ("", "a/b", "a b", "a\n", "x" * 129):
        with pytest.raises(ValueError, match="is not a handler name"):
            register_handler(name, echo)


def test_a_handler_is_found_by_name_and_called_without_a_server() -> None:
    response = Response()
    get_handler("ping")(Request(), response)
    assert (response.status, response.content, response.content_type) == (200, b"pong", "text/plain")
    assert "ping" in get_handler_names()
    with pytest.raises(ValueError, match="^Failed to find handler nonexistent$"):
        get_handler("nonexistent")


def test_a_request_owns_its_parameters() -> None:
    mine = Request({"a": "1"}, b"b")
    mine.params()["a"] = "2"
    assert (mine.get_param("a"), mine.get_param("none"), mine.body()) == ("1", "", b"b")


@pytest.mark.parametrize("status", [0, 100, 199, 600, 999])
def test_only_final_statuses_can_be_set(status: int) -> None:
    with pytest.raises(ValueError, match="not a final HTTP status"):
        Response().set_status(status)


@pytest.mark.parametrize(
    ("request_line", "ending"),
    [
        (b"POST /handler/ping HTTP/1.1\r\n", b""),
        (b"POST /handler/ping HTTP/1.1\r\nConnection: Close\r\n", b"Connection: close\r\n"),
        (b"POST /handler/ping HTTP/1.0\r\n", b"Connection: close\r\n"),
        (b"POST /handler/ping HTTP/1.0\r\nConnection: keep-alive\r\n", b"Connection: keep-alive\r\n"),
    ],
)
def test_an_answer_byte_by_byte(
    address: str, request_line: bytes, ending: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "last", None)  # another test's
    with connect(address) as sock:
        sock.sendall(request_line + b"\r\n")
        expected = (
            f"HTTP/1.1 200 OK\r\nServer: torchctl/{__version__}\r\nContent-Type: text/plain\r\n"
            f"Content-Length: 4\r\nTorchctl-Pid: {os.getpid()}\r\n"
        ).encode()
        assert sock.recv(4096) == expected + ending + b"\r\npong"
        sock.settimeout(0.05)
        if b"close" in ending:
            assert sock.recv(1) == b""
        else:
            with pytest.raises(TimeoutError):
                sock.recv(1)


@pytest.mark.parametrize(
    ("status", "line"),
    [(200, "200 OK"), (418, "418 I'm a Teapot"), (422, "422 Unprocessable"), (599, "599 Status"), (408, "408 Request")],
)
def test_a_status_has_its_phrase(status: int, line: str) -> None:
    assert status_line(status).startswith(f"HTTP/1.1 {line}")
