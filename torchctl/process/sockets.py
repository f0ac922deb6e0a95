"""The sockets that a process has open."""

from __future__ import annotations

import contextlib
import os

from torchctl.process.samples import read
from torchctl.protocol import socketnames

_LISTENING = "00010000"  # flags in /proc/net/unix: __SO_ACCEPTCON


def socket_inodes(pid: int) -> set[str]:
    """Return the inodes of a process's open sockets, as /proc/net lists them; empty if /proc denies access."""
    found = set()
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):  # closed since
                target = os.readlink(f"/proc/{pid}/fd/{name}")
                if target.startswith("socket:["):
                    found.add(target[len("socket:[") : -1])
    return found


def listening_path(pid: int) -> str:
    """Return the path of a Unix socket that a process listens on, preferably a worker's, or "" if there is none."""
    inodes = socket_inodes(pid)
    found = []
    for line in read(f"/proc/{pid}/net/unix").splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[3] == _LISTENING and fields[6] in inodes:
            found.append(fields[7])
    paths = [path for path in found if path.startswith("/")]
    return min(paths, key=lambda path: (not path.endswith(socketnames.SUFFIX), path), default="")
