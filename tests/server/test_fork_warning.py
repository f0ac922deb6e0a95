"""Python's warning of threads at a fork: never for a thread of ours, always for one of the trainer's."""

import sys
from pathlib import Path

import pytest

from tests.http_client import connect
from tests.processes import python

WARNS = sys.version_info >= (3, 12)  # that Python has the warning
SENTENCE = "is multi-threaded, use of fork() may lead to deadlocks in the child."
_PROGRAM = """
import os, sys, threading, time, warnings
import torchctl.server as s
server = s.WorkerServer({path!r})
def fork():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture
def program(folder: Path) -> str:
    return _PROGRAM.format(path=str(folder / "s"))


def warned(err: str) -> int:
    return err.count(SENTENCE)


def test_a_fork_with_no_thread_but_ours_is_no_warning(program: str) -> None:
    with python(program + "for _ in range(3): fork()\n") as process:
        assert process.finish() == (0, "", "")


def test_nor_is_it_an_error_where_warnings_are(program: str) -> None:
    with python(program + "warnings.simplefilter('error')\nfork()\nprint('forked')\n") as process:
        assert process.finish() == (0, "forked\n", "")


def test_nor_is_one_while_a_client_is_served(program: str, folder: Path) -> None:
    code = "print('up', flush=True)\nsys.stdin.readline()\nfork()\n"
    with python(program + code) as process:
        process.wait_for("up")
        with connect(str(folder / "s")) as sock:
            sock.sendall(b"POST /handler/ping HTTP/1.1\r\n\r\n")
            assert sock.recv(4096).endswith(b"pong")
            process.tell("fork")
            assert process.finish() == (0, "", "")


def test_a_thread_of_the_trainers_is_warned_of_as_ever(program: str) -> None:
    code = (
        "fork()\n"
        "end = threading.Event()\nthread = threading.Thread(target=end.wait)\nthread.start()\n"
        "fork()\n"
        "end.set()\nthread.join()\nwarnings.simplefilter('error')\n"
        "while len(os.listdir('/proc/self/task')) > 2: time.sleep(0.001)\n"  # joined, and gone for the kernel too
        "fork()\n"
    )
    with python(program + code) as process:
        code_, out, err = process.finish()
    assert (code_, out) == (0, "")
    assert warned(err) == (1 if WARNS else 0), err


def test_what_the_trainer_has_set_about_warnings_stays_as_it_is(program: str) -> None:
    code = (
        "before = list(warnings.filters)\n"
        "for number in range(3):\n"
        "    warnings.warn('mine')\n"  # shown once at this place, and not again after each fork
        "    fork()\n"
        "others = [one for one in warnings.filters if one not in before]\n"
        "print(len(others) <= 1, [one for one in warnings.filters if one in before] == before)\n"
    )
    with python(program + code) as process:
        status, out, err = process.finish()
    assert (status, out) == (0, "True True\n")
    assert err.count("UserWarning: mine") == 1, err
    assert warned(err) == 0
