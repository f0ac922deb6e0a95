"""Which addresses are this host's own."""

from __future__ import annotations

import pytest

from torchctl.storeutil.sockets import is_local


@pytest.mark.parametrize(
    ("host", "local"),
    [("localhost", True), ("127.0.0.1", True), ("127.0.0.2", True), ("192.0.2.1", False)],  # RFC 5737: nobody's
)
def test_a_host_is_local_if_a_socket_can_be_bound_to_it(host: str, local: bool) -> None:
    assert is_local(host) is local
