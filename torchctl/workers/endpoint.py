"""The address of one worker."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# What may stand in a host name, an IPv4 or an IPv6 address with its zone; nothing a shell or a URL could misread.
HOST = re.compile(r"[A-Za-z0-9._:%-]+")
_IN_BRACKETS = re.compile(r"\[([^\]]*)\]:(\d{1,5})")
_PLAIN = re.compile(r"([^:\[\]]*):(\d{1,5})")

RUNTIME_FOLDER = "runtime folder"  # the source of workers that nobody had to name


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one worker listens.

    Attributes:
        path: a Unix socket's path, "" for TCP.
        host, port: for TCP.
        rank: the rank that the socket's name promises; the worker's own answer counts more.
        node: another host, whose relay asks the worker at `path`; alone, that host as a whole.
        untrusted: only a store has named it, and it is not to have the token.
        token: for this worker, instead of TORCHCTL_TOKEN; never shown.
        ca: path of the authorities that vouch for it: it is spoken to in TLS; "" for plain HTTP.
        pid: a process of this host that has no server; it is looked at from outside.
        process: pid and start time of the worker that a store names for this address.
        found: we found it in the runtime folder, nobody named it: when it is dead, it is a leftover.
        source: what led to it: an option, a variable, or ``runtime folder``.
    """

    path: str = ""
    host: str = ""
    port: int = 0
    rank: int | None = None
    found: bool = False
    untrusted: bool = False
    pid: int | None = None
    node: str = ""
    process: tuple[int, float] | None = None
    source: str = field(default="", compare=False)
    token: str = field(default="", repr=False, compare=False)
    ca: str = ""

    def __str__(self) -> str:
        if self.node:
            return f"{self.node}:{self.path}" if self.path else self.node
        if self.path:
            return self.path
        if self.pid is not None:
            return f"pid {self.pid}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Whether a host is this one's loopback by its very address; a name, which may lead anywhere, never is."""
    from ipaddress import ip_address

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def parse_host_port(text: str) -> Endpoint:
    """Return the endpoint of ``HOST:PORT`` or ``[IPV6]:PORT``.

    Raises:
        ValueError: no port, a port outside 1 to 65535, or a host with characters that no host has.
    """
    match = _IN_BRACKETS.fullmatch(text) or _PLAIN.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not HOST:PORT; write node1:25000, or [::1]:25000 for IPv6")
    host, port = match[1], int(match[2])
    if not HOST.fullmatch(host) or host.startswith("-"):
        raise ValueError(f"{host!r} is no host name or address")
    if not 1 <= port <= 65535:
        raise ValueError(f"{port} is no TCP port: 1 to 65535")
    return Endpoint(host=host, port=port)
