"""A limit on how long torch's client waits for one answer from a TCPStore."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from torchctl.storeutil.interface import Store, innermost

_FOREVER_S = 0.0  # SO_RCVTIMEO's value for no limit, which torch uses


@contextmanager
def answers_within(store: Store, seconds: float) -> Iterator[None]:
    """Make reads from a TCPStore in the block fail with a DistNetworkError after `seconds` of silence.

    For `list_keys`: torch 2.13 holds the interpreter lock while it waits for that answer, without a limit, so a store
    that is stopped just then would freeze the whole process, which would ignore even Ctrl-C. torch does not expose its
    socket, so we find it among the open ones by the store's port. Does nothing to other stores, which have no port.
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
            copy = os.dup(int(name))  # a copy shares the socket and thus its options
        except OSError:
            continue  # the listing's own descriptor, or closed by now
        try:
            with socket.socket(fileno=copy) as sock:
                if sock.family in (socket.AF_INET, socket.AF_INET6) and sock.getpeername()[1] == port:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, span)
        except OSError as error:
            if error.errno == errno.ENOTSOCK:
                os.close(copy)  # no socket object owns it
