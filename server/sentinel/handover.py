"""What goes over the private link between a server and the sentinel.

The server hands over once: a description in JSON, together with descriptors. Afterwards it answers probes, sends the
names of other servers' private sockets, and says goodbye.
"""

from __future__ import annotations

import array
import json
import socket
from typing import Any, NamedTuple

from torchctl.server.http.gate import Gate

JOIN = b"join "  # followed by the name of another server's private socket
GOODBYE = b"bye"
_MAX_BYTES = 1 << 16
_MAX_DESCRIPTORS = 16


class Rules(NamedTuple):
    """Who may send requests to one listening socket, in a form that fits JSON."""

    is_tcp: bool
    token: str | None
    own_names: list[str] | None
    read_only: bool

    def gate(self) -> Gate:
        """Return the rules in the worker's form."""
        names = None if self.own_names is None else frozenset(self.own_names)
        token = None if self.token is None else self.token.encode("ascii")
        return Gate(token, names, read_only=self.read_only)


def rules_of(gate: Gate, is_tcp: bool) -> Rules:
    """Return what the sentinel needs to know of a listener's rules."""
    names = None if gate.own_names is None else sorted(gate.own_names)
    return Rules(is_tcp, None if gate.token is None else gate.token.decode("ascii"), names, gate.read_only)


class Handover(NamedTuple):
    """The description; its field names are those in the JSON.

    Attributes:
        pid, start_ticks: the worker's.
        address: the server's, as the operator would write it.
        listeners: the rules of each shared listening socket, in the order of the descriptors.
        rank, world_size, job_id, attempt, host: who the worker is.
        runtime_dir: where its last word goes.
        pyspy: path of py-spy, or None if it is not installed.
        dump_signal: makes the worker's interpreter write its stacks into the memfd; None if not set up.
        native: path of torch's own server in the worker, or "" for none.
        costly: the handlers that a read-only server turns off.
    """

    pid: int
    start_ticks: int
    address: str
    listeners: list[Rules]
    rank: int | None
    world_size: int | None
    job_id: str | None
    attempt: int | None
    host: str
    runtime_dir: str
    version: str
    pyspy: str | None
    dump_signal: int | None
    native: str
    costly: list[str]


def send(link: socket.socket, description: Handover, descriptors: list[int]) -> None:
    """Send the description and the descriptors.

    Raises:
        OSError: the other end is gone.
    """
    data = json.dumps(description._asdict()).encode()
    rights = array.array("i", descriptors)
    link.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], socket.MSG_NOSIGNAL)


def receive(link: socket.socket) -> tuple[Handover, list[int]]:
    """Receive the description and the descriptors.

    Raises:
        OSError: the other end is gone.
        ValueError: it sent something else.
    """
    room = socket.CMSG_SPACE(_MAX_DESCRIPTORS * array.array("i").itemsize)
    data, ancillary, _, _ = link.recvmsg(_MAX_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, rights in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(rights[: len(rights) - len(rights) % descriptors.itemsize])
    try:
        described: dict[str, Any] = json.loads(data)
        rules = [Rules(*one) for one in described.pop("listeners")]
        return Handover(**described, listeners=rules), list(descriptors)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"no handover: {error}") from error
