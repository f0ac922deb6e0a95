"""Whatever a client sends, the head of a request is read or refused, and the server goes on."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.eventually import wait_until
from tests.http_client import post, raw
from torchctl.protocol import MAX_HEADERS, MAX_LINE_BYTES
from torchctl.server import WorkerServer
from torchctl.server.http.gate import Gate
from torchctl.server.http.head import BadRequest, read_head

STATUSES = {400, 411, 413, 414, 431, 505}
PURE = settings(deadline=None, max_examples=400)
LIVE = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])

TOKENS = st.text("!#$%&'*+.^_`|~09AZaz-", min_size=1, max_size=12)
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f\x85\xa0"), max_size=12)
TARGETS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30)
# What breaks parsers: pieces of requests, in any order, with all the ends of lines that there are.
LINES = (
    "POST /handler/ping HTTP/1.1|GET / HTTP/1.0|PRI * HTTP/2.0|http://x/y|Host: localhost|Content-Length: 3"
    "|Content-Length: 99999999999999999999|content-length: -1|Transfer-Encoding: chunked|Expect: 100-continue"
    "|Connection: close|Authorization: Bearer x|\r\n|\n|\r|\0| |\t|:|0\r\n\r\n|\xff\xfe"
)
LONG = [b"a" * (MAX_LINE_BYTES - 1), b"a" * MAX_LINE_BYTES, b"X: y\r\n" * MAX_HEADERS]
PIECES = st.sampled_from([*LINES.encode("latin-1").split(b"|"), *LONG])
NOISE = st.lists(st.one_of(PIECES, st.binary(max_size=8)), max_size=12).map(b"".join)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("s") / "s"
    link = Path(os.path.relpath(path))  # pytest's folders are too deep for a socket's path
    with WorkerServer(str(link) if len(str(link)) < len(str(path)) else str(path)) as server:
        yield server.address


@PURE
@given(st.one_of(st.binary(max_size=200), NOISE))
def test_any_bytes_are_a_head_or_a_refusal_and_little_is_read(data: bytes) -> None:
    stream = io.BytesIO(data)
    try:
        head = read_head(stream)
        size = 0 if head is None else head.body_bytes
    except BadRequest as bad:
        assert bad.status in STATUSES
        assert bad.text.isprintable() and len(bad.text) < 200
    else:
        assert head is None or (len(head.fields) <= MAX_HEADERS and head.method and size >= 0)
    assert stream.tell() <= (MAX_HEADERS + 3) * (MAX_LINE_BYTES + 1)


@PURE
@given(TOKENS, TARGETS, st.integers(0, 1), st.dictionaries(TOKENS.map(str.lower), VALUES, max_size=8), st.binary())
def test_a_well_formed_head_is_read_as_it_was_written(
    method: str, target: str, minor: int, fields: dict[str, str], rest: bytes
) -> None:
    target = "/" + target
    lines = [f"{method} {target} HTTP/1.{minor}", *(f"{name}: {value}" for name, value in fields.items())]
    stream = io.BytesIO("\r\n".join([*lines, "\r\n"]).encode("latin-1") + rest)
    head = read_head(stream)
    assert head is not None
    assert (head.method, head.minor, head.fields) == (method, minor, fields)
    assert f"{head.path}?{head.query}" in (target, f"{target}?")
    assert head.host == fields.get("host")
    assert stream.read() == rest


@PURE
@given(st.text(max_size=40), st.none() | st.text(max_size=40))
def test_any_host_and_origin_are_judged(host: str, origin: str | None) -> None:
    gate = Gate(own_names=frozenset({"localhost", "node7"}))
    problem = gate.web_problem(host, origin)
    assert problem.isprintable()
    if not problem:
        assert "localhost" in host.lower() or "node7" in host.lower() or "127." in host or ":1" in host


@LIVE
@given(st.one_of(st.binary(max_size=300), NOISE))
def test_a_server_answers_or_hangs_up_and_goes_on(address: str, data: bytes) -> None:
    answer = raw(address, data, half_close=True)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
    assert post(address, "ping").body == b"pong"


def test_none_of_them_has_left_a_thread(address: str) -> None:
    wait_until(lambda: not any(thread.name == "torchctl-conn" for thread in threading.enumerate()))
