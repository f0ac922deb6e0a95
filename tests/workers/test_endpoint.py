"""Addresses as the operator writes them."""

import pytest

from torchctl.workers.endpoint import Endpoint, parse_endpoint


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("node1:25000", "node1", 25000), ("127.0.0.1:1", "127.0.0.1", 1), ("[::1]:65535", "::1", 65535)],
)
def test_host_and_port(text: str, host: str, port: int) -> None:
    endpoint = parse_endpoint(text)
    assert (endpoint.host, endpoint.port, str(endpoint)) == (host, port, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "node1",
        "node1:",
        ":1",
        "node1:0",
        "node1:65536",
        "::1:25000",
        "-oProxyCommand=x:1",
        "a b:1",
        "a;b:1",
        "a\n:1",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_endpoint(text)


def test_a_path_is_shown_as_it_is() -> None:
    assert str(Endpoint(path="/run/x.sock")) == "/run/x.sock"
