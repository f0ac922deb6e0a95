"""How a process of the job ended, from its last word, and which end is surely earlier than which."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from torchctl.diagnosis.model import Location

# By how much a time may be too late or off. A worker writes its own time before its end; its sentinel notices an end
# only when it gets its turn on a busy host. Clocks of two hosts are not compared below a second.
_OWN_S = 0.001
_NOTICED_S = 0.1
_HOSTS_S = 1.0

# What torch raises in a rank whose peer is gone, in any version; other libraries raise other types.
_TORCH_TYPES = ("RuntimeError", "DistError", "DistBackendError", "DistNetworkError", "DistStoreError")
_LOST = re.compile(
    r"Connection (?:closed|reset) by peer|[Cc]onnection was likely closed|Broken pipe|Socket closed|failed to recv, got"
    r"|remote process exited|ncclRemoteError|communicator was aborted|Connection refused"
)
_WAITED = re.compile(
    r"Timed out waiting \d+ ?ms|[Ww]ait timeout after \d+ ?ms|Timed out after \d+ seconds waiting"
    r"|collective operation timeout|monitoredBarrier|Application timeout caused|Socket Timeout"
)
_STOPPING = ("SIGTERM", "SIGINT", "SIGHUP")
# What the kernel or the process itself raises for an error in its own code.
_CRASHES = ("SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGTRAP", "SIGSYS", "SIGABRT")
_OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError")


class Role(Enum):
    """What a death alone says about its cause."""

    OWN = "of its own cause"
    STOPPED = "stopped from outside"
    LOST = "lost a connection to another rank"
    WAITED = "gave up waiting for another rank"


@dataclass(frozen=True, slots=True)
class Death:
    """One process's end.

    Attributes:
        died: seconds since the epoch, by its host's clock.
        cause: in words, with an exception's message: "uncaught ValueError: no rows left".
        exception, message, signal: "" if there is none.
        handled: type and message of the exceptions that it was handling when it raised, latest first.
        location: the user's line that an exception came from.
        orderly: its program ended with exit code 0.
        killed_for_memory: the kernel's out-of-memory killer ran in its control group.
        noticed: its sentinel has noticed the end; else the process has written the time itself.
        source: the last word's file.
    """

    rank: int | None
    pid: int
    host: str
    died: float
    cause: str
    exception: str = ""
    message: str = ""
    signal: str = ""
    handled: tuple[tuple[str, str], ...] = ()
    exit_code: int | None = None
    location: Location | None = None
    step: int | None = None
    orderly: bool = False
    killed_for_memory: bool = False
    noticed: bool = False
    source: str = ""

    @property
    def role(self) -> Role:
        """What the death alone says about its cause."""
        if self.signal in _STOPPING:  # with or without KeyboardInterrupt
            return Role.STOPPED
        if self.signal == "SIGABRT":
            return Role.WAITED  # a watchdog ends a rank so, and a failed assertion
        for kind, message in ((self.exception, self.message), *self.handled):
            if kind in _TORCH_TYPES and _WAITED.search(message):
                return Role.WAITED
            if kind in _TORCH_TYPES and _LOST.search(message):
                return Role.LOST
        return Role.OWN

    @property
    def crashed(self) -> bool:
        """Whether a signal for an error in its own code ended it."""
        return self.signal in _CRASHES

    @property
    def out_of_memory(self) -> bool:
        """Whether it ran out of the host's or a device's memory."""
        return self.killed_for_memory or self.exception in _OUT_OF_MEMORY or "CUDA out of memory" in self.message

    @property
    def earliest(self) -> float:
        """When it ended at the earliest."""
        return self.died - (_NOTICED_S if self.noticed else _OWN_S)


def surely_before(one: Death, other: Death) -> bool:
    """Whether a process ended before another, whatever their clocks and a busy host do."""
    return one.died < other.earliest - (0.0 if one.host == other.host else _HOSTS_S)
