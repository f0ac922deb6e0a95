"""A signal that makes the interpreter write all stacks into a memfd, for when the interpreter lock is held.

How this works: `faulthandler.register` needs no interpreter lock when the signal arrives. SIG_IGN is installed first,
so that once the handler is removed the signal is ignored instead of killing the process. We take only a real-time
signal that no one uses, and only on the main thread, since Python installs handlers only there. The signal is blocked
in all of our threads except the accepting one, to which the sentinel sends it.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import threading

from torchctl.process.samples import status_fields
from torchctl.server.guest import ownership

_LAST = 5  # real-time signals to try, from the highest down; libraries take the lowest
_taken: set[int] = set()


class Dump:
    """The registered signal and its memfd."""

    def __init__(self, number: int, descriptor: int) -> None:
        self.signal = number
        self.descriptor = descriptor
        self._mark = ownership.mark(descriptor)

    def unblock(self) -> None:
        """Let the calling thread take the signal."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {self.signal})

    def close(self) -> None:
        """Remove the handler and close the memfd, here or in a forked child; from then on the signal is ignored."""
        faulthandler.unregister(self.signal)
        _taken.discard(self.signal)
        if self.descriptor >= 0:
            ownership.close(self.descriptor, self._mark)
            self.descriptor = -1


def prepare() -> Dump | None:
    """Register a free signal; return None if there is none or this is not the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return None
    descriptor = -1
    try:
        number = next(number for number in range(signal.SIGRTMAX, signal.SIGRTMAX - _LAST, -1) if _is_free(number))
        descriptor = os.memfd_create("torchctl-stacks", os.MFD_CLOEXEC)
        signal.signal(number, signal.SIG_IGN)
        faulthandler.register(number, file=descriptor, all_threads=True, chain=False)
    except (StopIteration, OSError, ValueError, RuntimeError, AttributeError):
        if descriptor >= 0:
            os.close(descriptor)
        return None
    _taken.add(number)
    return Dump(number, descriptor)


def _is_free(number: int) -> bool:
    caught = int(status_fields("/proc/self/status").get("SigCgt", "0"), 16)  # handlers of C code too
    known = signal.getsignal(number) in (signal.SIG_DFL, signal.SIG_IGN)
    return known and not caught & 1 << (number - 1) and number not in _taken
