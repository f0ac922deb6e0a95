"""Starting the sentinel: whether this process may have one, how to start it, and how to let it read us."""

from __future__ import annotations

import os
import sys

from torchctl import protocol
from torchctl.process.samples import start_ticks

SCRIPT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "sentinel", "__main__.py")
_YAMA = "/proc/sys/kernel/yama/ptrace_scope"
_PR_SET_PTRACER = 0x59616D61


def wanted() -> bool:
    """Return whether the environment allows a sentinel."""
    return os.environ.get(protocol.SENTINEL_VARIABLE, "1") != "0"


def possible() -> bool:
    """Return whether a sentinel can be started here and could recognize this process."""
    # A frozen program's executable is the program itself: we would start the training again.
    return start_ticks(os.getpid()) is not None and bool(sys.executable) and not getattr(sys, "frozen", False)


def start(door: str) -> None:
    """Start a sentinel that is not our child.

    Args:
        door: name of the private socket that it must connect to.

    Raises:
        OSError: no process can be started.
    """
    from torchctl.server.guest import detach

    ticks = start_ticks(os.getpid())
    if ticks is not None:
        detach.start([sys.executable, "-I", "-S", SCRIPT, door, str(os.getpid()), str(ticks)])


def allow_reading_by(pid: int) -> None:
    """Let our sentinel and its children read us, if Yama forbids it by default (ptrace_scope 1)."""
    try:
        with open(_YAMA, encoding="ascii") as file:
            if file.read().strip() != "1":
                return
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(pid), 0, 0, 0)
    except (OSError, AttributeError):
        pass
