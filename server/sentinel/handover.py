"""What a worker hands to its sentinel, once: a description in JSON, and descriptors beside it."""

from __future__ import annotations

import array
import json
import socket
from typing import Any, NamedTuple

_MAX_BYTES = 1 << 16
_MAX_DESCRIPTORS = 16


class Handover(NamedTuple):
    """The description; its names are the JSON's.

    Attributes:
        pid, start_ticks: the worker.
        address: of the server, as the operator would write it.
        listeners: per shared listening socket, whether it is TCP, in the order of the descriptors.
        token: that TCP clients must present; None for none.
        rank, world_size, job_id, host: who the worker is.
        runtime_dir: where its last word goes.
        pyspy: path of py-spy, None where it is not installed.
        dump_signal: makes the worker's own interpreter write its stacks into the memfd; None where not prepared.
        native: path of torch's own server in the worker, "" for none.
    """

    pid: int
    start_ticks: int
    address: str
    listeners: list[bool]
    token: str | None
    rank: int | None
    world_size: int | None
    job_id: str | None
    host: str
    runtime_dir: str
    version: str
    pyspy: str | None
    dump_signal: int | None
    native: str


def send(link: socket.socket, description: Handover, descriptors: list[int]) -> None:
    """Hand over.

    Raises:
        OSError: the other end is gone.
    """
    data = json.dumps(description._asdict()).encode()
    rights = array.array("i", descriptors)
    link.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], socket.MSG_NOSIGNAL)


def receive(link: socket.socket) -> tuple[Handover, list[int]]:
    """Take what was handed over: the description and the descriptors.

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
        return Handover(**described), list(descriptors)
    except TypeError as error:
        raise ValueError(f"no handover: {error}") from error
