"""The last word that the sentinel keeps of a dead worker."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.processes import python
from tests.sentinels import IDLE, SERVE, alive, eventually, words, worker

pytestmark = pytest.mark.usefixtures("with_sentinel")


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "s"


def test_its_last_word_says_of_what_the_worker_died(path: Path, own_environment: Path) -> None:
    code = "s.report_step(1203)\nprint('reported', flush=True)\n" + IDLE
    environment = {"RANK": "3", "WORLD_SIZE": "8", "TORCHCTL_JOB_ID": "llama"}
    with worker(path, code, environment=environment) as (process, sentinel):
        process.wait_for("reported")
        process.popen.kill()
        eventually(lambda: not alive(sentinel))
        process.popen.wait(10)
    (word,) = words(str(own_environment))
    about = {name: word[name] for name in ("rank", "world_size", "job_id", "pid", "cause", "step", "endpoint")}
    assert about == {
        "rank": 3,
        "world_size": 8,
        "job_id": "llama",
        "pid": process.pid,
        "cause": "SIGKILL",
        "step": 1203,
        "endpoint": str(path),
    }
    assert abs(float(str(word["died"])) - time.time()) < 60
    assert own_environment.stat().st_mode & 0o777 == 0o700
    (file,) = own_environment.glob("*.died")
    assert file.stat().st_mode & 0o777 == 0o600
    assert path.exists()  # a dead worker's socket file is not the sentinel's to remove


def test_a_worker_that_dies_right_after_the_handover_has_its_last_word(path: Path, own_environment: Path) -> None:
    """The sentinel is stopped before it can take what is handed over, and goes on when the worker is dead."""
    code = (
        "import os, signal, socket, struct, time\n"
        "from torchctl.server.sentinel import handover\n"
        "send = handover.send\n"
        "def send_to_one_that_is_stopped(link, *rest):\n"
        "    pid = struct.unpack('3i', link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]\n"
        "    os.kill(pid, signal.SIGSTOP)\n"
        "    while 'T (stopped)' not in open(f'/proc/{pid}/status').read(): time.sleep(0.001)\n"
        "    send(link, *rest)\n"
        "handover.send = send_to_one_that_is_stopped\n"
    )
    kill = "os.kill(os.getpid(), signal.SIGKILL)\n"
    with python(code + SERVE.format(path=str(path), options="") + kill) as process:
        sentinel = int(process.line())
        process.popen.wait(10)
        os.kill(sentinel, signal.SIGCONT)
        eventually(lambda: not alive(sentinel))
    (word,) = words(str(own_environment))
    assert (word["pid"], word["endpoint"]) == (process.pid, str(path))


def test_a_runtime_folder_that_cannot_be_had_costs_the_word_alone(path: Path, folder: Path) -> None:
    (folder / "file").write_text("")
    with worker(path, environment={"TORCHCTL_RUNTIME_DIR": str(folder / "file")}) as (process, sentinel):
        process.popen.kill()
        eventually(lambda: not alive(sentinel))
        process.popen.wait(10)
    assert sorted(os.listdir(folder)) == ["file", "s"]
