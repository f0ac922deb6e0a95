"""The sentinel's life: beside the worker, unseen by it, and never longer than it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.http_client import connect, post
from tests.processes import Process, python
from tests.sentinels import IDLE, SERVE, alive, eventually, words, worker
from tests.server.programs import WAITS_FOR_ANY_CHILD
from torchctl.workers.causes import sentinel_of, sentinels

pytestmark = pytest.mark.usefixtures("with_sentinel")


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "s"


def status(pid: int, name: str) -> str:
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        return next(line.split(":", 1)[1].strip() for line in file if line.startswith(name + ":"))


def open_files(pid: int) -> list[str]:
    names = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # it has just been closed
            names.append(os.readlink(f"/proc/{pid}/fd/{number}"))
    return names


def test_it_is_nobodys_child_has_little_and_is_deaf(path: Path) -> None:
    with worker(path) as (process, sentinel):
        assert int(status(sentinel, "PPid")) != process.pid
        assert os.getsid(sentinel) == sentinel
        assert os.readlink(f"/proc/{sentinel}/cwd") == "/"
        # The listening socket and the link; it may be about to take the first.
        eventually(lambda: sum(name.startswith("socket:") for name in open_files(sentinel)) == 2)
        assert [name for name in open_files(sentinel) if name.startswith("/dev")] == ["/dev/null"] * 3
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(sentinel, number)
        assert int(status(sentinel, "VmRSS").split()[0]) < 15 * 1024
        assert int(status(sentinel, "Threads")) == 1
        assert post(str(path), "ping").body == b"pong"
        assert alive(sentinel)
        process.tell("end")
        assert process.finish() == (0, "", "")


def test_idle_it_wakes_up_once_a_second_at_most(path: Path) -> None:
    with worker(path) as (process, sentinel):
        assert post(str(path), "ping").status == 200
        before = int(status(sentinel, "voluntary_ctxt_switches"))
        began = time.monotonic()
        time.sleep(3)
        elapsed = time.monotonic() - began
        assert int(status(sentinel, "voluntary_ctxt_switches")) - before <= elapsed + 2
        process.tell("end")
        assert process.finish()[0] == 0


@pytest.mark.parametrize(
    ("code", "causes"),
    [
        ("", []),
        ("sys.exit(3)", []),
        ("server.shutdown()\nsys.stdin.readline()\n", []),
        ("os._exit(7)", ["exit code 7"]),
        ("os.kill(os.getpid(), signal.SIGTERM)", ["SIGTERM"]),
        ("os.kill(os.getpid(), signal.SIGKILL)", ["SIGKILL"]),
        ("os.abort()", ["SIGABRT"]),
    ],
)
def test_it_ends_in_every_way_of_dying_with_a_last_word_unless_in_order(
    path: Path, own_environment: Path, code: str, causes: list[str]
) -> None:
    with worker(path, IDLE + code) as (process, sentinel):
        assert alive(sentinel)
        process.tell("end")
        eventually(lambda: not alive(sentinel))
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            connect(str(path))
    assert [str(word["cause"]).partition(",")[0] for word in words(str(own_environment))] == causes


def test_shutdown_frees_path_and_port_within_half_a_second(path: Path) -> None:
    """Even where the sentinel has no time to let go of them."""
    code = IDLE + "began = time.monotonic()\nserver.shutdown()\nprint(time.monotonic() - began, flush=True)\n" + IDLE
    with worker(path, code) as (process, sentinel):
        process.tell("shut down")
        assert float(process.line()) < 2  # 10 ms where the machine has time for it
        assert not path.exists()
        eventually(lambda: not alive(sentinel))
    code = (
        "import os, signal, time, torchctl.server as s\n"
        "from torchctl.server.guest.sharing import sentinel_pid\n"
        "for has_time in (True, False):\n"
        "    server = s.WorkerServer('localhost', 0)\n"
        "    end = time.monotonic() + 20\n"
        "    while sentinel_pid() is None and time.monotonic() < end: time.sleep(0.01)\n"
        "    port, sentinel = server.port, sentinel_pid()\n"
        "    if not has_time: os.kill(sentinel, signal.SIGSTOP)\n"
        "    server.shutdown()\n"
        "    again = s.WorkerServer('localhost', port, sentinel=False)\n"
        "    again.shutdown()\n"
        "    if not has_time: os.kill(sentinel, signal.SIGCONT)\n"
        "print('free')\n"
    )
    with python(code) as process:
        assert process.finish() == (0, "free\n", "")


def test_it_ends_with_worker_main(path: Path) -> None:
    code = (
        "import sys, time, torchctl.server as s\n"
        "from torchctl.server.guest.sharing import sentinel_pid\n"
        "with s.worker_main():\n"
        "    end = time.monotonic() + 20\n"
        "    while sentinel_pid() is None and time.monotonic() < end: time.sleep(0.01)\n"
        "    print(sentinel_pid(), flush=True)\n"
        "print(sentinel_pid(), flush=True)\n"
    )
    with python(code + IDLE, {"TORCH_WORKER_SERVER_SOCKET": str(path)}) as process:
        sentinel = int(process.line())
        assert process.line() == "None"
        assert not path.exists()
        eventually(lambda: not alive(sentinel))
        process.tell("end")
        assert process.finish() == (0, "", "")


def test_a_loader_that_outlives_its_trainer_keeps_no_sentinel(path: Path) -> None:
    """A forked child has inherited the link; the pidfd tells of the death all the same."""
    code = "child = os.fork()\nif child == 0:\n    time.sleep(60)\n    os._exit(0)\nprint(child, flush=True)\n" + IDLE
    quiet = "import warnings\nwarnings.simplefilter('ignore')\n"
    with worker(path, quiet + code) as (process, sentinel):
        child = int(process.line())
        process.popen.kill()
        process.popen.wait(10)
        eventually(lambda: not alive(sentinel))
        assert alive(child)
        os.kill(child, signal.SIGKILL)


def test_killed_it_is_not_started_again(path: Path) -> None:
    code = IDLE + "print(sentinel_pid(), flush=True)\n" + IDLE
    with worker(path, code) as (process, sentinel):
        os.kill(sentinel, signal.SIGKILL)
        eventually(lambda: b'"sentinel":null' in post(str(path), "info").body)
        assert post(str(path), "ping").body == b"pong"
        process.tell("say")
        assert process.line() == "None"
        process.tell("end")
        assert process.finish() == (0, "", "")


@pytest.mark.parametrize(("options", "variable"), [(", sentinel=False", "1"), ("", "0")])
def test_it_can_be_turned_off(path: Path, options: str, variable: str) -> None:
    code = SERVE.format(path=str(path), options=options).replace("+ 20", "+ 0") + IDLE
    with python(code, {"TORCHCTL_SENTINEL": variable}) as process:
        assert process.line() == "None"
        assert post(str(path), "ping").body == b"pong"  # by the thread that would have started it before
        assert process.pid not in sentinels()


def test_two_servers_share_one_which_stays_for_the_last(path: Path) -> None:
    code = (
        "from torchctl.server.guest.sharing import sentinel_serves\n"
        "def settled(count):\n"
        "    end = time.monotonic() + 20\n"
        "    while len(sentinel_serves()) != count and time.monotonic() < end: time.sleep(0.01)\n"
        "    print(sentinel_pid(), len(sentinel_serves()), flush=True)\n"
        "first = server\n"
        "second = s.WorkerServer('localhost', 0)\n"
        "settled(2)\n"
        "first.shutdown()\n"
        "settled(1)\n"
        "third = s.WorkerServer(first.address)\n"
        "settled(2)\n"
        "second.shutdown()\nthird.shutdown()\n"
        "print(sentinel_pid(), flush=True)\n"
    )
    with worker(path, code + IDLE) as (process, sentinel):
        assert [process.line() for _ in range(4)] == [f"{sentinel} 2", f"{sentinel} 1", f"{sentinel} 2", "None"]
        eventually(lambda: not alive(sentinel))
        process.tell("end")
        assert process.finish() == (0, "", "")


def test_servers_that_start_at_once_have_one_too(path: Path) -> None:
    """The first one ends before its sentinel has come: the others have one all the same, and a forked child nothing."""
    code = (
        "import os, sys, time, torchctl.server as s\n"
        "from torchctl.server.guest.sharing import sentinel_pid, sentinel_serves\n"
        "servers = [s.WorkerServer(f'{sys.argv[-1]}.{number}') for number in range(4)]\n"
        "servers[0].shutdown()\n"
        "end = time.monotonic() + 20\n"
        "while len(sentinel_serves()) < 3 and time.monotonic() < end: time.sleep(0.01)\n"
        "print(len(sentinel_serves()), flush=True)\n"
        "pid = os.fork()\n"
        "if not pid:\n"
        "    names = []\n"
        "    for number in os.listdir('/proc/self/fd'):\n"
        "        if os.path.islink(f'/proc/self/fd/{number}'): names.append(os.readlink(f'/proc/self/fd/{number}'))\n"
        "    with open('/proc/self/maps') as file: names += file.read().split()\n"
        "    print([one for one in names if 'socket:' in one or 'memfd:' in one], flush=True)\n"
        "    os._exit(0)\n"
        "os.waitpid(pid, 0)\nsys.stdin.readline()\n"
    )
    process = Process([sys.executable, "-W", "error", "-c", code, str(path)])
    try:
        assert (process.line(), process.line()) == ("3", "[]")
        # One that was started for the first server alone ends as soon as it has knocked in vain.
        eventually(
            lambda: sum(sentinel_of(int(one)) == process.pid for one in os.listdir("/proc") if one.isdigit()) == 1
        )
        process.tell("end")
        assert process.finish() == (0, "", "")
    finally:
        process.end()


def test_starting_it_does_not_hold_up_the_trainer(path: Path) -> None:
    code = (
        "import time, torchctl.server as s\n"
        "took = []\n"
        "for number in range(5):\n"
        "    began = time.monotonic()\n"
        f"    server = s.WorkerServer({str(path)!r} + str(number))\n"
        "    took.append(time.monotonic() - began)\n"
        "    server.shutdown()\n"
        "print(min(took), flush=True)\n"
    )
    with python(code) as process:
        assert float(process.line()) < 0.5  # the best of five; the sentinel itself takes as long to start
        assert process.finish() == (0, "", "")


def test_no_wait_of_the_trainer_ever_sees_it(path: Path) -> None:
    """Threads that wait for any child all the time, and a handler for SIGCHLD: neither is told anything."""
    code = (
        WAITS_FOR_ANY_CHILD + "import sys\n"
        "threads = [threading.Thread(target=wait) for _ in range(2)]\n"
        "[one.start() for one in threads]\n"
        "import torchctl.server as s\n"
        "from torchctl.server.guest.sharing import sentinel_pid\n"
        "for number in range(10):\n"
        "    with s.WorkerServer(f'{sys.argv[-1]}.{number}'):\n"
        "        until = time.monotonic() + 20\n"
        "        while sentinel_pid() is None and time.monotonic() < until: time.sleep(0.01)\n"
        "        assert sentinel_pid()\n"
        "end.set()\n[one.join() for one in threads]\n"
        "print(seen, told)\n"
    )
    process = Process([sys.executable, "-c", code, str(path)])
    try:
        assert process.finish(60) == (0, "[] []\n", "")
    finally:
        process.end()


def test_a_restarted_rank_has_its_path_at_once(path: Path) -> None:
    """Whatever the sentinel of the dead one still holds."""
    for _ in range(2):
        with worker(path) as (process, sentinel):
            os.kill(sentinel, signal.SIGSTOP)  # it cannot let go of the socket
            try:
                process.popen.kill()
                process.popen.wait(10)
                with worker(path, options=", sentinel=True") as (again, _):
                    assert post(str(path), "ping").headers["Torchctl-Pid"] == str(again.pid)
            finally:
                os.kill(sentinel, signal.SIGCONT)
            eventually(lambda pid=sentinel: not alive(pid))  # type: ignore[misc]


def test_the_script_runs_by_its_path_without_site_packages() -> None:
    """As it is started: from any folder, with -I and -S, and nothing of torchctl on the path."""
    from torchctl.server.guest.launch import SCRIPT

    command = [sys.executable, "-I", "-S", SCRIPT, "00000", str(os.getpid()), "1"]
    result = subprocess.run(command, cwd="/", capture_output=True, timeout=30, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
