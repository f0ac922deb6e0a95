"""Whatever workers, files and the operator give: answers of workers, host lists, host files, rank lists."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from torchctl.errors import TooLargeError, TorchctlError
from torchctl.protocol import token_problem
from torchctl.ranks import MAX_RANKS, fold_ranks, parse_ranks
from torchctl.text import HOST
from torchctl.workers.ask.http import ResponseParser
from torchctl.workers.ask.reply import Reply
from torchctl.workers.find.hostfile import read_hostfile
from torchctl.workers.find.hostlist import parse_endpoints

pytestmark = pytest.mark.once

MANY = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
LIMIT = 1000

PIECES = (
    "HTTP/1.1 200 OK\r\n|HTTP/1.1 100 Continue\r\n\r\n|HTTP/1.0 999 \r\n|\r\n|pong|0\r\n\r\n|Content-Length: 4\r\n"
    "|Content-Length: 99999999999999999999\r\n|Content-Length: -1\r\n|Transfer-Encoding: chunked\r\n|4\r\npong\r\n"
    "|ffffffffffffffff\r\n|Upgrade: x\r\n|Torchctl-Rank: 3\r\n|Torchctl-Rank: 9e9\r\n"
)
LONG = [b"X: " + b"y" * 70_000, b"z" * (LIMIT + 1)]
ANSWERS = st.lists(
    st.one_of(st.sampled_from([*PIECES.encode().split(b"|"), *LONG]), st.binary(max_size=10)), max_size=10
).map(b"".join)
RANGES = st.text("0123456789-, ", max_size=14)
HOSTS = st.text("ab1-_.:%[]@,;$`|& \n'\"\\é/", max_size=24)


def outcome(pieces: list[bytes]) -> Reply | type[Exception]:
    parser = ResponseParser(LIMIT)
    try:
        for piece in pieces:
            if not parser.complete:
                parser.feed(piece)
        if not parser.complete:
            parser.feed(b"")
    except (ValueError, ConnectionResetError, TooLargeError) as error:
        return type(error)
    return parser.reply(0.0)._replace(answered_at=0.0)


@MANY
@given(ANSWERS, st.integers(1, 20))
@example(b"HTTP/1.1 200 OK\r\n\r\npong", 1)
def test_any_answer_is_a_reply_or_one_of_three_errors_however_it_comes(data: bytes, step: int) -> None:
    whole = outcome([data] if data else [])
    assert whole == outcome([data[at : at + step] for at in range(0, len(data), step)]) or len(data) > LIMIT
    if isinstance(whole, Reply):
        assert len(whole.body) <= LIMIT
        assert whole.rank is None or 0 <= whole.rank < 10**9


@MANY
@given(RANGES)
@example("0-999999")
@example("1,1,1,0-3")
def test_any_rank_list_is_ranks_or_a_sentence(text: str) -> None:
    try:
        ranks = parse_ranks(text)
    except ValueError as error:
        assert str(error)
        return
    assert 0 < len(ranks) <= MAX_RANKS and ranks == sorted(set(ranks))
    if len(ranks) < 10_000:
        assert parse_ranks(fold_ranks(ranks)) == ranks


@MANY
@given(st.one_of(HOSTS, HOSTS.map(lambda text: f"node{text}:25000"), RANGES.map(lambda text: f"n[{text}]:1")))
@example("n[1 -99999999]:1")
@example("n[-1-99999999]:1")
@example("n[1_0-9999_9999]:1")
@example("n[1-9]x[1-9]y[1-9]z[1-9]u[1-9]v[1-9]w[1-9]:1")
def test_any_host_list_is_endpoints_or_a_sentence(text: str) -> None:
    try:
        endpoints = parse_endpoints(text)
    except (ValueError, TorchctlError) as error:
        assert str(error)
        return
    for endpoint in endpoints[:100]:
        assert HOST.fullmatch(endpoint.host) and not endpoint.host.startswith("-")
        assert 1 <= endpoint.port <= 65535


@MANY
@given(st.one_of(st.binary(max_size=60), HOSTS.map(lambda text: f"a:1 {text}\n{text} rank=3".encode())))
def test_any_host_file_is_endpoints_or_a_sentence_with_its_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(data)
    try:
        assert read_hostfile(str(path))
    except TorchctlError as error:
        assert str(path) in str(error)


@MANY
@given(st.text(max_size=40))
def test_a_token_is_usable_or_refused_without_being_shown(text: str) -> None:
    problem = token_problem(text)
    if not problem:
        text.encode("ascii")
        assert len(text) >= 16 and "\r" not in text and "\n" not in text
    elif len(text) > 5:
        assert text not in problem


@pytest.mark.parametrize(
    "text", ["n[1-999999999]:1", "n[1-99999]m[1-99999]:1", "[" * 5000, "n[" + "1," * 50_000 + "1]:1"]
)
def test_a_host_list_that_wants_much_is_refused_or_small(text: str) -> None:
    try:
        assert len(parse_endpoints(text)) <= 1_000_000
    except (ValueError, TorchctlError) as error:
        assert len(str(error)) < 200_000
