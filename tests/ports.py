"""Ports for servers that start later: below those that the kernel hands to clients and to port 0."""

from __future__ import annotations

import itertools
import os
import socket
from contextlib import closing

HOST = "127.0.0.1"
_FIRST, _LAST = 12_000, 30_000
_next = itertools.count(os.getpid() * 37)  # test processes that run beside each other begin at other places


def unused_port() -> int:
    """Return a port at which nothing listens, and which nobody gets by chance before it is used."""
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
        last = min(_LAST, int(file.read().split()[0]))
    for _ in range(last - _FIRST):
        port = _FIRST + next(_next) % (last - _FIRST)
        with closing(socket.socket()) as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no port of {_FIRST} to {last} is free")
