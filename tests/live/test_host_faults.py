"""What happens to a worker's process and host, each with a real process: the trainer lives, the operator is told."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.eventually import wait_until
from tests.http_client import connect, post, request
from tests.namespaces import on_small_disk
from tests.processes import Process, running
from tests.sentinels import alive, eventually
from torchctl.cli import cli

pytestmark = pytest.mark.usefixtures("with_sentinel")

ROOT = str(Path(__file__).parents[2])
SERVER = [sys.executable, "-m", "torchctl.server"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="torchctl")


def script(folder: Path, code: str) -> str:
    path = folder / "train.py"
    path.write_text(code)
    return str(path)


def refuses(path: str) -> bool:
    try:
        connect(path).close()
    except ConnectionRefusedError:
        return True
    return False


WAITS = "import sys\nprint('ready', flush=True)\nsys.stdin.readline()\n"
DEATHS = {
    "os._exit": ("import os\nos._exit(4)\n", 4),
    "SIGKILL": ("import os\nos.kill(os.getpid(), 9)\n", -signal.SIGKILL),
    "abort": ("import os\nos.abort()\n", -signal.SIGABRT),
    "a crash in C while a module is imported": ("import crashing\n", -signal.SIGSEGV),
}


@pytest.mark.parametrize("how", DEATHS)
def test_a_death_without_a_word_is_told_as_refused_and_a_restart_takes_the_socket_over(folder: Path, how: str) -> None:
    code, exit_code = DEATHS[how]
    (folder / "crashing.py").write_text("import ctypes\nctypes.string_at(0)\n")
    (folder / "again.py").write_text(WAITS)
    path = str(folder / "s")
    environment = {"TORCH_WORKER_SERVER_SOCKET": path, "PYTHONPATH": ROOT}
    with running([*SERVER, script(folder, code)], environment) as dying:
        assert dying.finish()[0] == exit_code
    result = run("ping", "--socket", path)
    assert (result.exit_code, "refused the connection" in result.stderr) == (3, True)
    with running([*SERVER, str(folder / "again.py")], environment) as restarted:
        restarted.wait_for("ready")
        assert int(post(path, "ping").headers["Torchctl-Pid"]) == restarted.pid
        assert run("ping", "--socket", path).exit_code == 0


def test_a_worker_that_fails_at_an_import_ends_as_without_us_and_leaves_no_socket(folder: Path) -> None:
    path = folder / "s"
    environment = {"TORCH_WORKER_SERVER_SOCKET": str(path), "PYTHONPATH": ROOT}
    (folder / "broken.py").write_text("raise ImportError('no kernel image')\n")
    name = script(folder, "import broken\n")
    results = []
    for command in ([sys.executable, name], [*SERVER, name]):
        with running(command, environment) as process:
            results.append(process.finish())
    assert results[0] == results[1]
    assert results[1][0] == 1
    assert not path.exists()
    assert run("ping", "--socket", str(path)).exit_code == 3


FULL = {"no file can be made": "size=64k,nr_inodes=2", "no byte can be written": "size=64k"}


@pytest.mark.parametrize("how", FULL)
def test_on_a_full_disk_the_training_goes_on(folder: Path, how: str) -> None:
    """Without room for the socket's file there is one warning and no server; otherwise the server is there."""
    disk = folder / "disk"
    disk.mkdir()
    fill = f"import os\nfile = os.open({str(disk / 'fill')!r}, os.O_CREAT | os.O_WRONLY)\n"
    fill += (
        "try:\n    while os.write(file, bytes(4096)): pass\nexcept OSError as error: print(error.errno, flush=True)\n"
    )
    code = f"{fill if how != 'no file can be made' else 'print(28, flush=True)'}\n{WAITS}print('trained', flush=True)\n"
    environment = {"TORCHCTL_RUNTIME_DIR": str(disk / "run"), "PYTHONPATH": ROOT}
    with running(on_small_disk(disk, FULL[how], *SERVER, script(folder, code)), environment) as process:
        assert process.line() == "28"  # ENOSPC
        process.wait_for("ready")
        inside = Path(f"/proc/{process.pid}/root{disk}/run")
        sockets = sorted(inside.iterdir())
        assert len(sockets) == (how == "no byte can be written")
        for path in sockets:
            assert post(str(path), "ping").body == b"pong"
            assert post(str(path), "dump_traceback").status == 200
        process.tell("go on")
        out = process.finish()
    assert out[:2] == (0, "trained\n")
    assert out[2] == "" or (out[2].count("\n") == 1 and "no debug server in this process: cannot listen on" in out[2])


def test_what_the_operator_saves_on_a_full_disk_is_whole_or_not_there(folder: Path) -> None:
    disk = folder / "disk"
    disk.mkdir()
    code = (
        "import os, sys\nfrom torchctl.__main__ import main\n"
        f"with open({str(disk / 'fill')!r}, 'wb', 0) as file:\n"
        "    try:\n        while file.write(bytes(4096)): pass\n    except OSError: pass\n"
        "try: main()\n"
        f"finally: print(sorted(os.listdir({str(disk)!r})), flush=True)\n"
    )
    with running([*SERVER, script(folder, WAITS)], {"PYTHONPATH": ROOT}) as worker:
        worker.wait_for("ready")
        save = ["call", "info", "--output", str(disk / "info.json")]
        with running(
            on_small_disk(disk, "size=64k", sys.executable, "-c", code, *save), {"PYTHONPATH": ROOT}
        ) as torchctl:
            out = torchctl.finish()
    assert (out[0], out[1]) == (1, "['fill']\n")
    assert "info.json cannot be written: No space left on device" in out[2]


def test_with_a_read_only_runtime_folder_the_training_goes_on(folder: Path) -> None:
    disk = folder / "disk"
    disk.mkdir()
    prepare = ["sh", "-c", 'mkdir -m 700 "$1/run" && mount -o remount,ro "$1" && shift && exec "$@"', "sh", str(disk)]
    command = on_small_disk(disk, "size=64k", *prepare, *SERVER, script(folder, "print('trained')\n"))
    with running(command, {"TORCHCTL_RUNTIME_DIR": str(disk / "run"), "PYTHONPATH": ROOT}) as process:
        code, out, err = process.finish()
    assert (code, out, err.count("\n")) == (0, "trained\n", 1)
    assert "torchctl: no debug server in this process: cannot listen on" in err
    assert "Read-only file system" in err


def test_a_clock_set_back_hurts_nobody(folder: Path) -> None:
    """The clock is injected into the worker: `time.time` of its process goes back two hours."""
    path = str(folder / "s")
    code = (
        "import sys, time\nfrom torchctl.server import report_step\nreal, back = time.time, 0.0\n"
        "time.time = lambda: real() - back\nreport_step(7)\nprint('ready', flush=True)\n"
        "sys.stdin.readline()\nback = 7200.0\nprint('back', flush=True)\nsys.stdin.readline()\n"
    )
    with running([*SERVER, script(folder, code)], {"TORCH_WORKER_SERVER_SOCKET": path, "PYTHONPATH": ROOT}) as worker:
        worker.wait_for("ready")
        with connect(path) as kept:
            kept.sendall(b"POST /handler/ping HTTP/1.1\r\n")
            worker.tell("go back")
            worker.wait_for("back")
            kept.sendall(b"\r\n")
            assert kept.recv(1000).endswith(b"pong")
            assert kept.recv(1000) == b""  # idle for 2 s, by a clock that only goes on
        info = json.loads(post(path, "info").body)
        assert 0 <= info["uptime_s"] < 3600
        (told,) = json.loads(run("ps", "--socket", path, "--json").stdout)["workers"]
        assert (told["step"], told["step_age_s"]) == (7, 0.0)
        assert 0 <= told["uptime_s"] < 3600
        assert "7 (0s ago)" in run("ps", "--socket", path).stdout


def test_two_jobs_on_one_host_are_kept_apart(folder: Path, own_environment: Path) -> None:
    name = script(folder, WAITS)
    with ExitStack() as stack:
        workers: list[Process] = []
        for job in ("red", "blue"):
            for rank in range(2):
                place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "TORCHCTL_JOB_ID": job}
                workers.append(stack.enter_context(running([*SERVER, name], {**place, "PYTHONPATH": ROOT})))
        for worker in workers:
            worker.wait_for("ready")
        both, red = run("ps", "--json"), run("ping", "--job", "red", "--json")
        assert [one["rank"] for one in json.loads(both.stdout)["workers"]] == [0, 0, 1, 1]
        assert "workers of 2 jobs answered: blue (2), red (2); --job ID picks one" in both.stderr
        assert {one["pid"] for one in json.loads(red.stdout)["workers"]} == {one.pid for one in workers[:2]}
        workers[0].popen.kill()
        workers[0].popen.wait(10)
        wait_until(lambda: run("ping", "--job", "red").exit_code == 3)
        assert run("ping", "--job", "blue", "--json").stdout.count('"state": "ok"') == 2
    assert list(own_environment.glob("*.sock"))  # the killed one's: its reader may still look at it


LOADER = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
from torch.utils.data import DataLoader, Dataset
class Numbers(Dataset):
    def __len__(self): return 8
    def __getitem__(self, index): return torch.tensor(index)
if __name__ == "__main__":
    how = sys.argv[1]
    loader = DataLoader(Numbers(), batch_size=2, num_workers=2, multiprocessing_context=how, persistent_workers=True)
    batches = iter(loader)
    total = int(next(batches).sum())
    print(" ".join(str(worker.pid) for worker in batches._workers), flush=True)
    sys.stdin.readline()
    print(total + sum(int(batch.sum()) for batch in batches), flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def stopped() -> Iterator[list[int]]:
    """Process ids that the test has stopped, ended afterwards."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


@pytest.mark.torch
@pytest.mark.parametrize("how", ["fork", "forkserver"])
def test_data_loader_workers_serve_nothing_and_hold_nothing(folder: Path, how: str, stopped: list[int]) -> None:
    path = str(folder / "s")
    environment = {"TORCH_WORKER_SERVER_SOCKET": path, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"}
    with running([*SERVER, script(folder, LOADER), how], environment) as trainer:
        loaders = [int(word) for word in trainer.line().split()]
        for _ in range(5):
            assert int(post(path, "ping").headers["Torchctl-Pid"]) == trainer.pid
        trainer.tell("go on")
        assert trainer.line() == "28"
        assert request(path, "POST", "/handler/dump_traceback").status == 200
        for pid in loaders:
            os.kill(pid, signal.SIGSTOP)  # so that they outlive their trainer
            stopped.append(pid)
        trainer.popen.kill()
        trainer.popen.wait(10)
        wait_until(lambda: refuses(path))
        assert all(Path(f"/proc/{pid}").exists() for pid in loaders)


RESTARTED = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
rank, restarts = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
(folder / f"up-{rank}-{restarts}").write_text(str(os.getpid()))
while not (restarts == "0" and rank == "1" and (folder / "die").exists()):
    time.sleep(0.02)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.torch
@pytest.mark.timeout(300)
def test_a_rank_that_torchrun_restarts_has_its_socket_again(folder: Path, own_environment: Path) -> None:
    from tests.demo.job import torchrun_job

    marks = folder / "marks"
    marks.mkdir()
    name = script(folder, RESTARTED.replace("sys.argv[1]", repr(str(marks))))
    sockets = [str(own_environment / f"{rank}.sock") for rank in range(2)]
    own_environment.mkdir(mode=0o700)
    environment = {
        "TORCH_WORKER_SERVER_SOCKET": str(own_environment / "{rank}.sock"),
        "PET_MAX_RESTARTS": "1",
        "PET_MONITOR_INTERVAL": "0.1",
        "PYTHONPATH": ROOT,
    }

    def up(restarts: int) -> bool:
        return all((marks / f"up-{rank}-{restarts}").exists() for rank in range(2))

    with torchrun_job(Path(name), 2, own_environment, environment=environment):
        wait_until(lambda: up(0), 100)
        first = [int(post(path, "ping").headers["Torchctl-Pid"]) for path in sockets]
        sentinels = [sentinel_at(path) for path in sockets]
        (marks / "die").touch()
        wait_until(lambda: up(1), 100)
        second = [int(post(path, "ping").headers["Torchctl-Pid"]) for path in sockets]
        assert not set(first) & set(second)
        assert second == [int((marks / f"up-{rank}-1").read_text()) for rank in range(2)]
        assert run("ping", "--socket", sockets[0], "--socket", sockets[1]).exit_code == 0
        assert not set(sentinels) & {sentinel_at(path) for path in sockets}
        wait_until(lambda: not any(alive(pid) for pid in sentinels))


def sentinel_at(path: str) -> int:
    """Return the pid of a worker's sentinel, as soon as it has one."""
    return int(eventually(lambda: json.loads(post(path, "info").body)["sentinel"]))
