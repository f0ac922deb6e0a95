"""The sentinel's process: whether this one may have it, how it is started, and that it may read us."""

from __future__ import annotations

import os
import sys

from torchctl import protocol
from torchctl.process.samples import start_ticks

SCRIPT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "sentinel", "__main__.py")
_YAMA = "/proc/sys/kernel/yama/ptrace_scope"
_PR_SET_PTRACER = 0x59616D61


def wanted() -> bool:
    """Whether the environment allows a sentinel."""
    return os.environ.get(protocol.SENTINEL_VARIABLE, "1") != "0"


def possible() -> bool:
    """Whether a sentinel can be started from here, and can know this process again."""
    # A frozen program's executable is the program: that would start the training once more.
    return start_ticks(os.getpid()) is not None and bool(sys.executable) and not getattr(sys, "frozen", False)


def start(door: str) -> None:
    """Start a sentinel, as nobody's child.

    Args:
        door: name of the private socket at which it is to knock.

    Raises:
        OSError: no process can be started.
    """
    from torchctl.server.guest import detach

    ticks = start_ticks(os.getpid())
    if ticks is not None:
        detach.start([sys.executable, "-I", "-S", SCRIPT, door, str(os.getpid()), str(ticks)])


def allow_reading_by(pid: int) -> None:
    """Where Yama forbids processes to read each other (1), let our sentinel and what it starts read us."""
    try:
        with open(_YAMA, encoding="ascii") as file:
            if file.read().strip() != "1":
                return
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(pid), 0, 0, 0)
    except (OSError, AttributeError):
        pass
