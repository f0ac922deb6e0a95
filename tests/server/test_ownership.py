"""What the trainer does with descriptors, signals and folders that we are in: nothing of its own is ever hurt."""

import shlex
import sys
from pathlib import Path

import pytest

from tests.http_client import post
from tests.processes import running
from tests.sentinels import IDLE, alive, eventually, worker

pytestmark = pytest.mark.usefixtures("with_sentinel")

# Closes what it has not opened; what it opens then gets the numbers that were ours.
_CLOSES_ALL = """
import socket
os.closerange(3, 256)
pairs = [socket.socketpair() for _ in range(12)]
def hurt():
    found = []
    for one, other in pairs:
        for end in (one, other):
            end.setblocking(False)
            try: found.append(end.recv(16))
            except BlockingIOError: pass
            except OSError as error: found.append(error.errno)
        try:
            one.send(b'q')
            found += [] if other.recv(16) == b'q' else ['lost']
        except OSError as error: found.append(error.errno)
    return found
child = os.fork()
if child == 0:
    os._exit(len(hurt()))
print(os.waitpid(child, 0)[1], hurt(), flush=True)
server.shutdown()
print(hurt(), flush=True)
"""
# Python 3.12 and later may warn here: a thread of ours that starts or ends just then is not known by its number.
_INTERRUPTED = """
import warnings
warnings.simplefilter('ignore')
def fork():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
for number in range(30):
    one = s.WorkerServer(server.address + '.more', sentinel=False)
    signal.signal(signal.SIGALRM, lambda *about: (fork(), one.shutdown()))
    signal.setitimer(signal.ITIMER_REAL, 0.0001 * (number + 1))
    (fork if number % 2 else one.shutdown)()
    signal.setitimer(signal.ITIMER_REAL, 0)
    one.shutdown()
print('done', flush=True)
"""


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "s"


def test_what_the_trainer_opens_in_place_of_our_descriptors_stays_its_own(path: Path) -> None:
    with worker(path, _CLOSES_ALL) as (process, sentinel):
        assert process.line() == "0 []"
        assert process.line() == "[]"
        assert process.finish() == (0, "", "")
        eventually(lambda: not alive(sentinel))


def test_a_signal_handler_may_fork_and_shut_down_while_we_do(path: Path) -> None:
    with worker(path, _INTERRUPTED) as (process, _):
        assert process.line() == "done"
        assert process.finish() == (0, "", "")


def test_what_is_printed_to_closed_streams_does_not_reach_our_sockets(path: Path, folder: Path) -> None:
    code = (
        "import os, sys, time, torchctl.server as s\n"
        "server = s.WorkerServer(sys.argv[1])\n"
        "for number in (0, 1, 2):\n"
        "    try: os.write(number, b'as C code prints')\n"
        "    except OSError: pass\n"
        "open(sys.argv[2], 'w').close()\n"
        "time.sleep(60)\n"
    )
    command = shlex.join([sys.executable, "-c", code, str(path), str(folder / "written")])
    with running(["/bin/sh", "-c", f"exec {command} <&- >&- 2>&-"]):
        eventually((folder / "written").exists)
        assert post(str(path), "ping").body == b"pong"


def test_a_folder_that_is_gone_costs_neither_the_sentinel_nor_a_word_on_stderr(path: Path, folder: Path) -> None:
    code = (
        "import ctypes, os, sys, time, torchctl.server as s\n"
        "from torchctl.server.guest import detach\n"
        "from torchctl.server.guest.sharing import sentinel_pid\n"
        "sys.path.remove('')\n"  # Python 3.13 imports nothing more with it in a folder that is gone
        "os.mkdir(sys.argv[2])\nos.chdir(sys.argv[2])\nos.rmdir(sys.argv[2])\n"
        "server = s.WorkerServer(sys.argv[1])\n"
        "end = time.monotonic() + 20\n"
        "while sentinel_pid() is None and time.monotonic() < end: time.sleep(0.01)\n"
        "print(sentinel_pid() is not None, os.path.lexists(sys.argv[1]), flush=True)\n"
    )
    with running([sys.executable, "-c", code, str(path), str(folder / "gone")]) as process:
        assert process.finish() == (0, "True True\n", "")


def test_a_frozen_program_is_not_started_once_more(path: Path) -> None:
    """Its `sys.executable` is the program itself, which would start another one, and so on."""
    code = (
        "import sys\nsys.frozen = True\nimport torchctl.server as s\n"
        "from torchctl.server.guest import detach\n"
        "def started(*about): print('started', about, flush=True)\n"
        "detach.start = started\n"
        "server = s.WorkerServer(sys.argv[1])\nprint('up', flush=True)\n" + IDLE
    )
    with running([sys.executable, "-c", code, str(path)]) as process:
        process.wait_for("up")
        assert post(str(path), "ping").body == b"pong"  # by the thread that would have started it before
        process.tell("end")
        assert process.finish() == (0, "", "")
