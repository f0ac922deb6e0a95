"""Who may send requests: the access rules of one listener, without any I/O except one `getsockopt`.

How this works: a Unix socket admits its owner and root, by the credentials that the kernel recorded at the connect; the
file's mode says the same, but the mode can be changed and a descriptor passed on. A TCP listener requires the token if
one is set. On loopback, where any web page in this host's browser can connect, it also refuses a request that names a
foreign host (a name that an attacker's DNS points here) or comes from a page of another origin.

The sentinel uses these rules too, in a process that must stay small: `hmac` would load OpenSSL for one function, and
`ipaddress` is a megabyte.
"""

from __future__ import annotations

import os
import socket
from _operator import _compare_digest  # what `hmac.compare_digest` is
from typing import NamedTuple

from torchctl.process.peer import peer_of

_IPV6_LOOPBACK = bytes(15) + b"\1"
_IPV4_WITHIN = bytes(10) + b"\xff\xff"  # ::ffff:127.0.0.1


class Gate(NamedTuple):
    """The access rules of one listener.

    Attributes:
        token: what clients must present, or None if nothing is required.
        own_names: the host names that a loopback listener accepts, or None if it accepts any Host.
        read_only: costly handlers are turned off.
    """

    token: bytes | None = None
    own_names: frozenset[str] | None = None
    read_only: bool = False

    def knows(self, authorization: str) -> bool:
        """Return whether an Authorization header carries the token, compared in constant time."""
        if self.token is None:
            return True
        return _compare_digest(authorization.encode("latin-1", "replace"), b"Bearer " + self.token)

    def web_problem(self, host: str | None, origin: str | None) -> str:
        """Return why a request seems to come from a web page and not from an operator, or "" if it does not.

        Args:
            host: the Host header, or None if there is none; only old tools omit it, browsers never do.
            origin: the Origin header; browsers send it with every POST.
        """
        if self.own_names is None:
            return ""
        if host is not None and not self._is_own(host):
            return "the Host header names another host; this server only answers its own host's loopback"
        if origin is not None and origin.lower().partition("://")[2] != (host or "").lower():
            return "the Origin header names another site; web pages may not query this server"
        return ""

    def _is_own(self, host: str) -> bool:
        name = _host_of(host)
        return name in (self.own_names or ()) or is_loopback(name)


def is_loopback(address: str) -> bool:
    """Return whether a text is a loopback address: IPv4, IPv6, or IPv4-mapped IPv6."""
    try:
        return socket.inet_pton(socket.AF_INET, address)[0] == 127
    except (OSError, ValueError):
        pass
    try:
        packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    except (OSError, ValueError):  # not an address; contains a NUL
        return False
    return packed == _IPV6_LOOPBACK or (packed[:12] == _IPV4_WITHIN and packed[12] == 127)


def own_names(host: str) -> frozenset[str]:
    """Return the names that a loopback listener started for `host` accepts."""
    return frozenset({"localhost", host.lower(), socket.gethostname().lower()} - {""})


def peer_problem(connection: socket.socket) -> str:
    """Return why the process at the other end of a Unix socket may not send requests, or "" if it may.

    Our own uid and root may. The kernel records the uid at the connect, as this process's user namespace sees it.
    """
    uid = peer_of(connection).uid
    return "" if uid in (os.geteuid(), 0) else f"this socket only serves uid {os.geteuid()} and root, not uid {uid}"


def _host_of(authority: str) -> str:
    """Return the name in ``NAME``, ``NAME:PORT`` or ``[IPV6]:PORT``, in lower case."""
    text = authority.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].rstrip(".")
