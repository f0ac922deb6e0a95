"""Faults with real processes: what each leaves behind, and what the operator sees."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.http_client import connect, post
from tests.processes import python, running
from tests.sentinels import IDLE, SERVE, alive, degraded, eventually, held, stop, words, worker
from torchctl.causes import sentinel_of
from torchctl.cli import cli

QUIET = "import warnings\nwarnings.simplefilter('ignore')\n"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="torchctl")


def test_worker_and_sentinel_killed_at_once(folder: Path) -> None:
    path = folder / "s"
    with worker(path) as (process, sentinel):
        os.kill(sentinel, signal.SIGKILL)
        process.popen.kill()
        process.popen.wait(10)
        eventually(lambda: not alive(sentinel))
        result = run("ping", "--socket", str(path))
        assert result.exit_code == 3
        assert "refused the connection" in result.stderr
    with worker(path) as (again, _):
        assert post(str(path), "ping").headers["Torchctl-Pid"] == str(again.pid)


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_data_loaders_of_every_kind(folder: Path, method: str) -> None:
    """Children come and go, outlive nothing, and take no connection; then the worker is silent and it is told."""
    script = folder / "train.py"
    script.write_text(
        QUIET + "import ctypes, multiprocessing, sys, time\n"
        "from torchctl.server import WorkerServer\n"
        "from torchctl.server.companion import sentinel_pid\n"
        "def load(queue):\n    queue.put(1)\n    time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    server = WorkerServer(sys.argv[1])\n"
        "    end = time.monotonic() + 20\n"
        "    while sentinel_pid() is None and time.monotonic() < end: time.sleep(0.01)\n"
        f"    context = multiprocessing.get_context({method!r})\n"
        "    queue = context.Queue()\n"
        "    loaders = [context.Process(target=load, args=(queue,), daemon=True) for _ in range(3)]\n"
        "    [one.start() for one in loaders]\n"
        "    [queue.get() for _ in loaders]\n"
        "    print(sentinel_pid(), flush=True)\n"
        "    print('holding', flush=True)\n"
        "    ctypes.PyDLL(None).read(0, ctypes.create_string_buffer(2), 2)\n"
        "    sys.stdin.readline()\n"
        "    [one.kill() for one in loaders]\n"
    )
    path = folder / "s"
    with running([sys.executable, str(script), str(path)]) as process:
        sentinel = int(process.line())
        held(process)
        assert b"interpreter lock held" in degraded(path).body
        process.tell("g")
        eventually(lambda: post(str(path), "ping").body == b"pong")
        process.popen.kill()
        process.popen.wait(10)
        eventually(lambda: not alive(sentinel))
        with pytest.raises(ConnectionRefusedError):
            connect(str(path))


def _unshare() -> str | None:
    """Return unshare's path where a mount namespace of one's own can be made."""
    program = shutil.which("unshare")
    if program is None:
        return None
    mount = ["-m", "sh", "-c", "mount -t tmpfs -o size=4k none /mnt"]
    works = subprocess.run([program, *mount], capture_output=True, timeout=30, check=False).returncode == 0
    return program if works else None


@pytest.mark.parametrize("options", ["size=4k,mode=0700", "size=64k,mode=0700,ro"])
def test_a_full_or_read_only_runtime_folder_costs_the_last_word_alone(folder: Path, options: str) -> None:
    unshare = _unshare()
    if unshare is None:
        pytest.skip("no mount namespace can be made here")
    run_dir = folder / "run"
    run_dir.mkdir(mode=0o700)
    fill = f"dd if=/dev/zero of={run_dir}/fill bs=4096 count=1 2>/dev/null;" if "4k" in options else ""
    code = SERVE.format(path=str(folder / "s"), options="") + "s.report_step(3)\n" + IDLE
    shell = f'mount -t tmpfs -o {options} none {run_dir} && {{ {fill} exec "$@"; }}'
    command = [unshare, "-m", "sh", "-c", shell, "sh", sys.executable, "-c", code]
    with running(command) as process:
        sentinel = int(process.line())
        assert post(str(folder / "s"), "ping").body == b"pong"
        stop(process.pid)
        assert b"stopped" in degraded(folder / "s").body
        process.popen.kill()
        process.popen.wait(10)
        eventually(lambda: not alive(sentinel))
    assert os.listdir(run_dir) == []


def test_descriptors_used_up_cost_no_takeover(folder: Path) -> None:
    code = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (30, 64))\n"
        "kept = []\n"
        "try:\n    while True: kept.append(os.dup(0))\nexcept OSError: pass\n"
        "print('full', flush=True)\n" + IDLE + "[os.close(one) for one in kept]\nprint('free', flush=True)\n" + IDLE
    )
    with worker(folder / "s", code) as (process, sentinel):
        process.wait_for("full")
        time.sleep(2)
        process.tell("free them")
        process.wait_for("free")
        eventually(lambda: post(str(folder / "s"), "ping").body == b"pong")
        assert alive(sentinel)
        process.tell("end")
        assert process.finish() == (0, "", "")


def test_a_worker_that_crashes_at_import_leaves_nobody_behind(folder: Path, own_environment: Path) -> None:
    script = folder / "train.py"
    script.write_text("import nothing_of_that_name\n")
    before = _sentinels()
    with running([sys.executable, "-m", "torchctl.server", str(script)]) as process:
        code, _, err = process.finish()
    assert code == 1 and "nothing_of_that_name" in err
    eventually(lambda: not _sentinels() - before)
    assert os.listdir(own_environment) == []


def _sentinels() -> set[int]:
    """Return the workers that have a sentinel."""
    return {worker for name in os.listdir("/proc") if name.isdigit() and (worker := sentinel_of(int(name)))}


def test_two_jobs_on_one_host(folder: Path, own_environment: Path) -> None:
    own_environment.mkdir(mode=0o700)
    jobs = [{"RANK": "0", "WORLD_SIZE": "1", "TORCHCTL_JOB_ID": name} for name in ("one", "two")]
    paths = [own_environment / f"rank0-{number}.sock" for number in (1000001, 1000002)]
    with (
        worker(paths[0], environment=jobs[0]) as (first, _),
        worker(paths[1], environment=jobs[1]) as (second, sentinel),
    ):
        stop(first.pid)
        degraded(paths[0])
        states = {one["job_id"]: one["state"] for one in json.loads(run("ps", "--json").stdout)["workers"]}
        assert states == {"one": "degraded", "two": "ok"}
        assert run("ping", "--job", "two").exit_code == 0
        second.popen.kill()
        eventually(lambda: not alive(sentinel))
        second.popen.wait(10)
        assert [word["job_id"] for word in words(str(own_environment))] == ["two"]
        assert "SIGKILL" not in run("ps", "--job", "one").stdout
        os.kill(first.pid, signal.SIGCONT)


@pytest.mark.torch
def test_torchrun_restarts_a_rank_on_the_same_socket(folder: Path) -> None:
    """The first life of the rank is killed; the second has its socket, and a sentinel of its own."""
    script = folder / "train.py"
    script.write_text(
        "import os, signal, sys, time\n"
        "from torchctl.server import worker_main\n"
        "from torchctl.server.companion import sentinel_pid\n"
        "with worker_main():\n"
        "    end = time.monotonic() + 20\n"
        "    while sentinel_pid() is None and time.monotonic() < end: time.sleep(0.01)\n"
        "    if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    print('second', os.getpid(), flush=True)\n"
        "    time.sleep(600)\n"
    )
    path = folder / "s"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    command += ["--max-restarts", "1", str(script)]
    with running(command, {"TORCH_WORKER_SERVER_SOCKET": str(path), "OMP_NUM_THREADS": "1"}) as process:
        while not (line := process.line()).startswith("second"):
            pass
        pid = int(line.split()[1])
        assert post(str(path), "ping").headers["Torchctl-Pid"] == str(pid)
        stop(pid)
        assert b"stopped" in degraded(path).body
        os.kill(pid, signal.SIGKILL)


@pytest.mark.torch
def test_traces_while_the_lock_is_held_by_torchs_own_server(folder: Path) -> None:
    path = folder / "s"
    code = (
        "import ctypes, os, time\n"
        "import torch, torch.distributed\n"
        "import torchctl.server as s\n"
        "from torchctl.server.companion import sentinel_pid\n"
        f"server = s.WorkerServer({str(path)!r}, native_companion=True)\n"
        "end = time.monotonic() + 20\n"
        "while sentinel_pid() is None and time.monotonic() < end: time.sleep(0.01)\n"
        "print('holding', flush=True)\n"
        "ctypes.PyDLL(None).read(0, ctypes.create_string_buffer(2), 2)\n"
        "folder = os.path.dirname(server._native.path)\n"
        "server.shutdown()\n"
        "print(os.path.exists(folder), flush=True)\n"
    )
    with python(code) as process:
        held(process)
        degraded(path)
        reply = post(str(path), "fr_trace_json")
        assert reply.status == 200, reply.body
        assert "Torchctl-Degraded" in reply.headers
        assert "pg_config" in json.loads(reply.body)
        assert post(str(path), "torch_profile").status == 503
        process.tell("g")
        assert process.line() == "False"
