"""Programs with a server in them, in processes of their own: what the trainer is for the tests of a good guest."""

import sys
from pathlib import Path

from tests.processes import Process

SERVE = "import torchctl.server as s, os, sys, threading, time, signal\nserver = s.WorkerServer(sys.argv[-1])\n"

# For what is counted: the sentinel's start is over, and the door at which it came in is closed.
SETTLED = (
    "from torchctl.server.guest.sharing import sentinel_pid\n"
    "end = time.monotonic() + 20\n"
    "door = server._listeners[0].companion\n"
    "while (sentinel_pid() is None or door._door is not None) and time.monotonic() < end: time.sleep(0.01)\n"
)
# `wait`, for threads that wait for any child until `end`; `seen` and `told` are what they and SIGCHLD's handler learn.
WAITS_FOR_ANY_CHILD = (
    "import os, signal, threading, time\n"
    "seen, told, end = [], [], threading.Event()\n"
    "signal.signal(signal.SIGCHLD, lambda *about: told.append(about))\n"
    "def wait():\n"
    "    while not end.is_set():\n"
    "        try: seen.append(os.wait())\n"
    "        except ChildProcessError: time.sleep(0)\n"
)


def start(code: str, path: Path) -> Process:
    """Start `code` behind a server at `path`."""
    return Process([sys.executable, "-c", SERVE + code, str(path)])
