"""The one rule by which server and sentinel judge a request, as a table."""

import io

import pytest

from torchctl.protocol import ROUTES
from torchctl.server.http.gate import Gate
from torchctl.server.http.head import Head, read_head
from torchctl.server.http.verdict import Refused, Route, Served, judge

TOKEN = b"a-token-of-twenty-bytes"
OPEN = Gate()
LOOPBACK = Gate(own_names=frozenset({"localhost"}))
GUARDED = Gate(token=TOKEN)
BOTH = Gate(token=TOKEN, own_names=frozenset({"localhost"}))
READ_ONLY = Gate(read_only=True)

RIGHT = f"Authorization: Bearer {TOKEN.decode()}"
WANTED = "this server requires `Authorization: Bearer` with the token it was started with"
HOST = "the Host header names another host; this server only answers its own host's loopback"
ORIGIN = "the Origin header names another site; web pages may not query this server"
GET_ONLY = "GET, HEAD"


def head(line: str, *fields: str) -> Head:
    found = read_head(io.BytesIO("\r\n".join([f"{line} HTTP/1.1", *fields, "", ""]).encode()))
    assert found is not None
    return found


def costly(name: str) -> bool:
    return name.startswith("costly")


Case = tuple[Gate, str, tuple[str, ...], Served | Refused]
SERVED: list[Case] = [
    (OPEN, "GET /", (), Served(Route.INDEX)),
    (OPEN, "HEAD /", (), Served(Route.INDEX)),
    (OPEN, "GET /handler", (), Served(Route.NAMES)),
    (OPEN, "GET /handler/", (), Served(Route.NAMES)),
    (OPEN, "POST /handler/ping", (), Served(Route.HANDLER, "ping")),
    (OPEN, "POST /handler/ping?a=b", (), Served(Route.HANDLER, "ping")),
    (OPEN, "POST /handler/none", (), Served(Route.HANDLER, "none")),
    (OPEN, "POST /handler/a%20b%2Fc", (), Served(Route.HANDLER, "a b/c")),
    (OPEN, "POST /handler/costly", (), Served(Route.HANDLER, "costly")),
    (OPEN, "POST /handler/ping", ("Host: evil.example", "Origin: https://evil.example"), Served(Route.HANDLER, "ping")),
    (LOOPBACK, "POST /handler/ping", (), Served(Route.HANDLER, "ping")),
    (LOOPBACK, "POST /handler/ping", ("Host: localhost:7",), Served(Route.HANDLER, "ping")),
    (
        LOOPBACK,
        "POST /handler/ping",
        ("Host: localhost:7", "Origin: http://localhost:7"),
        Served(Route.HANDLER, "ping"),
    ),
    (GUARDED, "POST /handler/ping", (RIGHT,), Served(Route.HANDLER, "ping")),
    (GUARDED, "POST /handler/ping", (RIGHT, "Host: node7"), Served(Route.HANDLER, "ping")),
    (READ_ONLY, "POST /handler/ping", (), Served(Route.HANDLER, "ping")),
    (READ_ONLY, "GET /handler/", (), Served(Route.NAMES)),
]
REFUSED: list[Case] = [
    # A stranger is told nothing of what there is: first the page, then the token, whatever is asked for.
    (BOTH, "POST /none", ("Host: evil.example", RIGHT), Refused(403, HOST, stranger=True)),
    (BOTH, "POST /none", ("Host: localhost", "Origin: null", RIGHT), Refused(403, ORIGIN, stranger=True)),
    (BOTH, "POST http://evil.example/handler/ping", ("Host: localhost", RIGHT), Refused(403, HOST, stranger=True)),
    (BOTH, "DELETE /none", ("Host: localhost",), Refused(401, WANTED, stranger=True)),
    (GUARDED, "GET /", (), Refused(401, WANTED, stranger=True)),
    (GUARDED, "GET /", (RIGHT + "x",), Refused(401, WANTED, stranger=True, wrong_token=True)),
    (GUARDED, "GET /", (RIGHT.lower(),), Refused(401, WANTED, stranger=True, wrong_token=True)),
    (GUARDED, "GET /", (RIGHT.replace("Bearer", "Basic"),), Refused(401, WANTED, stranger=True, wrong_token=True)),
    # Who may ask is told what is wrong.
    (GUARDED, "GET /none", (RIGHT,), Refused(404, f"no such route: /none\n{ROUTES}")),
    (OPEN, "POST /handlers", (), Refused(404, f"no such route: /handlers\n{ROUTES}")),
    (OPEN, "POST /", (), Refused(405, "POST is not served at /; use GET", GET_ONLY)),
    (OPEN, "POST /handler/", (), Refused(405, "POST is not served at /handler/; use GET", GET_ONLY)),
    (OPEN, "GET /handler/ping", (), Refused(405, "GET is not served at /handler/ping; use POST", allow="POST")),
    (
        READ_ONLY,
        "GET /handler/costly",
        (),
        Refused(405, "GET is not served at /handler/costly; use POST", allow="POST"),
    ),
    (
        READ_ONLY,
        "POST /handler/costly%5F",
        (),
        Refused(403, "Handler costly_ is turned off: this server is read-only"),
    ),
]


@pytest.mark.parametrize(("gate", "line", "fields", "expected"), SERVED + REFUSED)
def test_the_table(gate: Gate, line: str, fields: tuple[str, ...], expected: Served | Refused) -> None:
    assert judge(head(line, *fields), gate, costly) == expected


@pytest.mark.parametrize(
    ("refused", "headers"),
    [
        (Refused(401, ""), {"WWW-Authenticate": "Bearer"}),
        (Refused(405, "", allow="POST"), {"Allow": "POST"}),
        (Refused(403, ""), {}),
        (Refused(404, ""), {}),
    ],
)
def test_a_refusal_says_what_http_wants_with_it(refused: Refused, headers: dict[str, str]) -> None:
    assert refused.headers == headers
