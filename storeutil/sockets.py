"""Ports and addresses of this host."""

from __future__ import annotations

import socket
from contextlib import closing

from torchctl.storeutil.logs import get_logger


def get_free_port() -> int:
    """Return a port that is currently free on localhost; it is not reserved, so another process may take it.

    Source: torch.distributed.elastic.utils.distributed.get_free_port (2.13).
    """
    with closing(get_socket_with_port()) as sock:
        return int(sock.getsockname()[1])


def get_socket_with_port() -> socket.socket:
    """Return a listening socket on a free port of localhost, which holds the port until it is closed.

    Raises:
        RuntimeError: localhost has no address to bind.

    Source: torch.distributed.elastic.utils.distributed.get_socket_with_port (2.13).
    """
    for family, kind, proto, _, address in socket.getaddrinfo(
        "localhost", 0, family=socket.AF_UNSPEC, type=socket.SOCK_STREAM
    ):
        sock = socket.socket(family, kind, proto)
        try:
            sock.bind(address)
            sock.listen(0)
        except OSError as error:
            sock.close()
            get_logger(__name__).warning("cannot bind %s: %s", address, error)
            continue
        return sock
    raise RuntimeError("cannot bind any address of localhost")


def is_local(host: str) -> bool:
    """Return True if an address of `host` belongs to this host, so that a socket can be bound to it.

    Raises:
        socket.gaierror: the name does not resolve.
    """
    for family, kind, proto, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
        try:
            with socket.socket(family, kind, proto) as sock:
                sock.bind(address)
        except OSError:
            continue
        return True
    return False
