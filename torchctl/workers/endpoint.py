"""The address of one worker."""

from __future__ import annotations

from dataclasses import dataclass, field

from torchctl.text import host_port, parse_host_port

RUNTIME_FOLDER = "runtime folder"  # the source of workers that no one had to name


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
        found: we found it in the runtime folder, no one named it: when it is dead, it is a leftover.
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
        return host_port(self.host, self.port)


def is_loopback(host: str) -> bool:
    """Whether a host is this one's loopback by its very address; a name, which may lead anywhere, never is."""
    from ipaddress import ip_address

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def parse_endpoint(text: str) -> Endpoint:
    """Return the endpoint of ``HOST:PORT``; raises as `text.parse_host_port`."""
    host, port = parse_host_port(text)
    return Endpoint(host=host, port=port)
