"""Faults with real processes: what each leaves behind, and what the operator sees."""

import contextlib
import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.http_client import connect, post
from tests.namespaces import on_small_disk
from tests.processes import python, running
from tests.sentinels import IDLE, SERVE, alive, at_once, degraded, eventually, held, stop, words, worker
from torchctl.cli import cli
from torchctl.process.lastword import SUFFIX
from torchctl.workers.causes import last_words, sentinels

pytestmark = pytest.mark.usefixtures("with_sentinel")

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


LOADERS = (
    QUIET
    + """
import ctypes, multiprocessing, os, sys, time
from torchctl.server import WorkerServer
from torchctl.server.guest.sharing import sentinel_pid
def load(queue):
    queue.put(1)
    time.sleep(120)
if __name__ == "__main__":
    server = WorkerServer(sys.argv[1])
    end = time.monotonic() + 20
    while sentinel_pid() is None and time.monotonic() < end: time.sleep(0.01)
    context = multiprocessing.get_context(sys.argv[2])
    queue = context.Queue()
    loaders = [context.Process(target=load, args=(queue,), daemon=True) for _ in range(3)]
    [one.start() for one in loaders]
    [queue.get() for _ in loaders]
    print(sentinel_pid(), *[one.pid for one in loaders], flush=True)
    print("holding", flush=True)
    ctypes.PyDLL(None).read(0, ctypes.create_string_buffer(2), 2)
    sys.stdin.readline()
"""
)


def test_data_loaders_of_every_kind(folder: Path) -> None:
    """They take no connection of a silent worker's, and when it is killed they hold nothing although they live on."""
    script = folder / "train.py"
    script.write_text(LOADERS)
    paths = {method: folder / method for method in ("fork", "forkserver")}
    with contextlib.ExitStack() as stack:
        trainers, sentinels, loaders = [], [], []
        for method, path in paths.items():
            process = stack.enter_context(running([sys.executable, str(script), str(path), method]))
            sentinel, *own = map(int, process.line().split())
            loaders += own
            stack.callback(_kill, own)
            held(process)
            trainers.append(process)
            sentinels.append(sentinel)
        for reply in at_once(*(partial(degraded, path) for path in paths.values())):
            assert b"interpreter lock held" in reply.body
        for process, path in zip(trainers, paths.values(), strict=True):
            process.tell("g")
            eventually(lambda path=path: post(str(path), "ping").body == b"pong")  # type: ignore[misc]
            process.popen.kill()
            process.popen.wait(10)
        eventually(lambda: not any(map(alive, sentinels)))
        assert all(map(alive, loaders))
        for path in paths.values():
            with pytest.raises(ConnectionRefusedError):
                connect(str(path))
    eventually(lambda: not any(map(alive, loaders)))


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_full_or_read_only_runtime_folder_costs_the_last_word_alone(folder: Path) -> None:
    code = SERVE.format(path="{path}", options="") + "s.report_step(3)\n" + IDLE
    disks = {"full": "size=4k,mode=0700", "ro": "size=64k,mode=0700,ro"}
    with contextlib.ExitStack() as stack:
        workers = []
        for name, options in disks.items():
            disk = folder / name
            disk.mkdir()
            fill = f"dd if=/dev/zero of={disk}/fill bs=4096 count=1 2>/dev/null; " if name == "full" else ""
            program = ["sh", "-c", f'{fill}exec "$@"', "sh", sys.executable, "-c", code.format(path=f"{disk}.s")]
            command = on_small_disk(disk, options, *program)
            process = stack.enter_context(running(command, {"TORCHCTL_RUNTIME_DIR": str(disk)}))
            workers.append((process, int(process.line()), Path(f"{disk}.s")))
        for process, _, path in workers:
            assert post(str(path), "ping").body == b"pong"
            stop(process.pid)
        for reply in at_once(*(partial(degraded, path) for _, _, path in workers)):
            assert b"stopped" in reply.body
        for process, sentinel, _ in workers:
            process.popen.kill()
            process.popen.wait(10)
            eventually(lambda sentinel=sentinel: not alive(sentinel))  # type: ignore[misc]
    assert [os.listdir(folder / name) for name in disks] == [[], []]


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
        time.sleep(1)
        process.tell("free them")
        process.wait_for("free")
        eventually(lambda: post(str(folder / "s"), "ping").body == b"pong")
        assert alive(sentinel)
        process.tell("end")
        assert process.finish() == (0, "", "")


def test_a_worker_that_crashes_at_import_leaves_nobody_behind(folder: Path, own_environment: Path) -> None:
    script = folder / "train.py"
    script.write_text("import nothing_of_that_name\n")
    with running([sys.executable, "-m", "torchctl.server", str(script)]) as process:
        code, _, err = process.finish()
    assert code == 1 and "nothing_of_that_name" in err
    eventually(lambda: process.pid not in sentinels())
    assert [word.cause for word in last_words()] == ["uncaught ModuleNotFoundError"]
    assert [name for name in os.listdir(own_environment) if not name.endswith(SUFFIX)] == []


def test_two_jobs_on_one_host(folder: Path, own_environment: Path) -> None:
    own_environment.mkdir(mode=0o700)
    jobs = [{"RANK": "0", "WORLD_SIZE": "1", "TORCHCTL_JOB_ID": name} for name in ("one", "two")]
    paths = [own_environment / f"rank0-{number}.sock" for number in (1000001, 1000002)]
    with (
        worker(paths[0], environment=jobs[0]) as (first, _),
        worker(paths[1], environment=jobs[1]) as (second, sentinel),
    ):
        states = {one["job_id"]: one["state"] for one in json.loads(run("ps", "--json").stdout)["workers"]}
        assert states == {"one": "ok", "two": "ok"}
        assert run("ping", "--job", "two").exit_code == 0
        second.popen.kill()
        eventually(lambda: not alive(sentinel))
        second.popen.wait(10)
        assert [word["job_id"] for word in words(str(own_environment))] == ["two"]
        shown = run("ps", "--job", "one").stdout
        assert str(first.pid) in shown and "SIGKILL" not in shown
        assert "SIGKILL" in run("ps", "--job", "two").stdout


@pytest.mark.torch
def test_traces_while_the_lock_is_held_by_torchs_own_server(folder: Path) -> None:
    path = folder / "s"
    code = (
        "import ctypes, os, sys, time\n"
        "import torch, torch.distributed\n"
        "import torchctl.server as s\n"
        "from torchctl.server.guest.sharing import sentinel_pid\n"
        "with s.worker_main(native_companion=True):\n"
        "    end = time.monotonic() + 20\n"
        "    while sentinel_pid() is None and time.monotonic() < end: time.sleep(0.01)\n"
        "    print('holding', flush=True)\n"
        "    ctypes.PyDLL(None).read(0, ctypes.create_string_buffer(2), 2)\n"
    )
    (folder / "tmp").mkdir()
    with python(code, {"TORCH_WORKER_SERVER_SOCKET": str(path), "TMPDIR": str(folder / "tmp")}) as process:
        held(process)
        degraded(path)
        (private,) = (folder / "tmp").glob("torchctl-native-*")
        assert private.stat().st_mode & 0o777 == 0o700
        reply = post(str(path), "fr_trace_json")
        assert reply.status == 200, reply.body
        assert "Torchctl-Degraded" in reply.headers
        assert "pg_config" in json.loads(reply.body)
        assert post(str(path), "torch_profile").status == 503
        process.tell("g")
        assert process.finish()[0] == 0
        assert not private.exists()
