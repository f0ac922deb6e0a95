"""A limit on how long torch's client waits for one answer of a TCPStore."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from torchctl.storeutil.interface import Store, innermost

_FOREVER_S = 0.0  # what SO_RCVTIMEO takes for no limit, torch's own setting


@contextmanager
def answers_within(store: Store, seconds: float) -> Iterator[None]:
    """Let what is read from a TCPStore in the block fail after `seconds` of silence, as a DistNetworkError.

    For `list_keys`: torch 2.13 holds the interpreter lock while it waits for that answer, without a limit, so a store
    that is stopped just then would freeze the whole process, deaf to Ctrl-C. torch offers no way to its socket; it is
    found among the open ones by the store's port. A store of another kind, without a port, is left alone.
    """
    port = getattr(innermost(store), "port", None)
    try:
        if port is not None:
            _limit(port, seconds)
        yield
    finally:
        if port is not None:
            _limit(port, _FOREVER_S)


def _limit(port: int, seconds: float) -> None:
    """Set SO_RCVTIMEO on this process's connections to `port`."""
    span = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
    for name in os.listdir("/proc/self/fd"):
        try:
            copy = os.dup(int(name))  # a copy shares the socket, and so its options
        except OSError:
            continue  # the listing's own descriptor, or closed meanwhile
        try:
            with socket.socket(fileno=copy) as sock:
                if sock.family in (socket.AF_INET, socket.AF_INET6) and sock.getpeername()[1] == port:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, span)
        except OSError as error:
            if error.errno == errno.ENOTSOCK:
                os.close(copy)  # no socket has taken it over
