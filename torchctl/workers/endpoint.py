"""The address of one worker."""

from __future__ import annotations

from dataclasses import dataclass, field

from torchctl.text import host_port, parse_host_port

RUNTIME_FOLDER = "runtime folder"  # the source of workers that the operator did not name


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one worker listens.

    Attributes:
        path: a Unix socket's path, "" for TCP.
        host, port: for TCP.
        rank: the rank in the socket's name; the worker's own answer takes precedence.
        node: another host, whose relay asks the worker at `path`; without a path, that host as a whole.
        untrusted: only a store named it, so it must not receive the token.
        token: for this worker, instead of TORCHCTL_TOKEN; never shown.
        ca: path of the CA certificates that verify it over TLS; "" for plain HTTP.
        pid: a process on this host that has no server; it is inspected from outside.
        process: pid and start time of the worker that a store names for this address.
        found: it was found in the runtime folder and not named by the operator: if it is dead, it is a leftover.
        source: where it came from: an option, a variable, or ``runtime folder``.
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
        return host_port(self.host, self.port)


def is_loopback(host: str) -> bool:
    """Return whether a host is a loopback address; a name never counts, because it may resolve to anything."""
    from ipaddress import ip_address

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def parse_endpoint(text: str) -> Endpoint:
    """Return the endpoint for ``HOST:PORT``; raises as `text.parse_host_port` does."""
    host, port = parse_host_port(text)
    return Endpoint(host=host, port=port)
