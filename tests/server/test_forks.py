"""A program that forks: its children serve nothing and hold nothing, and it goes on being served."""

from pathlib import Path

import pytest

from tests.http_client import connect, post
from tests.processes import python
from tests.server.programs import start
from torchctl.workers.causes import last_words

pytestmark = pytest.mark.usefixtures("with_sentinel")


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "s"


def test_a_forked_child_serves_nothing_and_holds_nothing(path: Path) -> None:
    """A data loader that outlives a killed trainer must not keep the socket alive."""
    code = (
        "import gc\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    server.shutdown()\n"
        "    sockets = [os.readlink(f'/proc/self/fd/{f}') for f in os.listdir('/proc/self/fd')"
        " if os.path.islink(f'/proc/self/fd/{f}')]\n"
        "    print(sum(name.startswith('socket:') for name in sockets), flush=True)\n"
        "    sys.stdin.readline()\n"
        "    os._exit(0)\n"
        "signal.pause()\n"
    )
    process = start(code, path)
    try:
        assert process.line() == "0"
        assert post(str(path), "ping").body == b"pong"  # the child's shutdown was not the parent's
        process.popen.kill()
        process.popen.wait(10)
        with pytest.raises(ConnectionRefusedError):
            connect(str(path))
    finally:
        process.tell("end")
        process.end()


def test_a_child_that_leaves_worker_main_by_an_exception_leaves_the_socket(folder: Path) -> None:
    path = folder / "s"
    code = (
        "import os, sys, torchctl.server as s\n"
        "with s.worker_main():\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        sys.exit(5)\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    with python(code, {"TORCH_WORKER_SERVER_SOCKET": str(path)}) as process:
        assert process.line() == "5"
        assert post(str(path), "ping").body == b"pong"
        assert last_words() == []  # nor does it say that the rank has died
        process.tell("end")
        assert process.finish()[::2] == (0, "")


def test_a_fork_finds_no_thread_of_an_idle_server(path: Path) -> None:
    """Python 3.12 and later warn on stderr when a process with threads forks."""
    code = (
        "for round in range(30):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        os._exit(threading.active_count())\n"
        "    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1\n"
        "    assert threading.active_count() == 2\n"
        "print('ready', flush=True)\nsys.stdin.readline()\n"
    )
    process = start(code, path)
    try:
        process.wait_for("ready")
        assert post(str(path), "ping").body == b"pong"
        process.tell("end")
        assert process.finish() == (0, "", "")
    finally:
        process.end()


def test_threads_that_fork_at_once_leave_one_server(path: Path) -> None:
    code = (
        "import warnings\nwarnings.simplefilter('ignore')\n"
        "def forks():\n"
        "    for _ in range(20):\n"
        "        child = os.fork()\n"
        "        if child == 0: os._exit(0)\n"
        "        os.waitpid(child, 0)\n"
        "threads = [threading.Thread(target=forks) for _ in range(4)]\n"
        "[t.start() for t in threads]\n[t.join() for t in threads]\n"
        "print(sum(t.name == 'torchctl-accept' for t in threading.enumerate()), flush=True)\nsys.stdin.readline()\n"
    )
    process = start(code, path)
    try:
        assert process.line() == "1"
        assert post(str(path), "ping").body == b"pong"
    finally:
        process.end()


def test_clients_wait_out_a_fork(path: Path) -> None:
    code = (
        "import warnings\nwarnings.simplefilter('ignore')\nprint('ready', flush=True)\n"
        "for _ in range(100):\n"
        "    child = os.fork()\n"
        "    if child == 0: os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
        "print('done', flush=True)\nsys.stdin.readline()\n"
    )
    process = start(code, path)
    try:
        process.wait_for("ready")
        for _ in range(100):
            assert post(str(path), "ping").body == b"pong"
        process.wait_for("done")
    finally:
        process.end()


def test_servers_that_come_and_go_while_the_program_forks(path: Path) -> None:
    code = (
        "import warnings\nwarnings.simplefilter('ignore')\n"
        "end = threading.Event()\n"
        "def forks():\n"
        "    while not end.is_set():\n"
        "        child = os.fork()\n"
        "        if child == 0: os._exit(0)\n"
        "        os.waitpid(child, 0)\n"
        "threads = [threading.Thread(target=forks) for _ in range(2)]\n[t.start() for t in threads]\n"
        "for round in range(60):\n    with s.WorkerServer(f'{sys.argv[-1]}.{round}'): pass\n"
        "end.set()\n[t.join() for t in threads]\nserver.shutdown()\n"
        "print(threading.active_count(), flush=True)\n"
    )
    process = start(code, path)
    try:
        assert process.finish() == (0, "1\n", "")
    finally:
        process.end()
