"""`torchctl collect`: what is kept, what a second run adds, and who reads it."""

import base64
import contextlib
import json
import os
import pickle
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests import listeners
from tests.listeners import listening
from tests.stacks.texts import WAITING, dump
from torchctl.cli import cli
from torchctl.server import WorkerServer
from torchctl.workers.ask.question import Asking, Question
from torchctl.workers.ask.reply import Reply
from torchctl.workers.ask.request import handler_request
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.hosts.relay import Reader


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="torchctl")


@pytest.fixture
def worker(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder with the socket of rank 3 of 5."""
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "5")
    sockets = folder / "sockets"
    sockets.mkdir()
    with WorkerServer(str(sockets / "rank3-1.sock")):
        yield sockets


def test_everything_of_a_worker_and_why_another_has_nothing(worker: Path, folder: Path) -> None:
    out = folder / "out"
    with listening(str(worker / "rank1-1.sock"), listeners.silent):
        result = run("collect", str(out), "--socket", str(worker), "--timeout", "8")
    assert result.exit_code == 3
    assert "rank 1: " in result.stderr
    names = sorted(path.name for path in out.iterdir())
    assert {"collect.json", "info_rank_3.json", "traceback_rank_3.txt"} <= set(names)
    assert json.loads((out / "info_rank_3.json").read_text())["rank"] == 3
    head, *text = (out / "traceback_rank_3.txt").read_text().splitlines()
    about = json.loads(head.removeprefix("# torchctl "))
    assert (about["rank"], about["pid"], about["host"]) == (3, os.getpid(), os.uname().nodename)
    assert any("[MainThread]" in line for line in text)
    manifest = json.loads((out / "collect.json").read_text())
    silent, kept = manifest["workers"]
    assert silent["rank"] == 1
    assert silent["files"].keys() <= {"traceback"}  # where py-spy may read this process, which listens there
    assert "did not answer within" in silent["failures"]["info"]
    assert (kept["rank"], kept["host"], kept["world_size"]) == (3, os.uname().nodename, 5)
    assert abs(kept["clock_offset_s"]) < 1
    assert manifest["not_found"] == [{"job_id": None, "ranks": [0, 2, 4]}]
    shown = run("traceback", str(out))
    assert shown.stdout.splitlines()[:2][0] == "1 rank answered of 5"
    assert re.search(r"rank 1: |1 rank cannot answer: 1, ", shown.stdout)
    assert ("does not answer" if silent["files"] else "did not answer within") in shown.stdout
    assert "  ranks 0,2,4: not found (3)" in shown.stdout
    assert "main thread: 1 rank: 3" in shown.stdout


def test_a_second_run_asks_for_what_is_missing(worker: Path, folder: Path) -> None:
    out = folder / "out"
    where = ["--socket", str(worker), "--timeout", "20"]
    with listening(str(worker / "rank1-1.sock"), listeners.reply(b"Handler x failed: no", status="500 E")):
        run("collect", str(out), *where)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.name != "collect.json"}
    assert before
    (worker / "rank1-1.sock").unlink()
    headers = b"Torchctl-Rank: 1\r\nTorchctl-World-Size: 5\r\n"
    with listening(str(worker / "rank1-1.sock"), listeners.reply(dump(1, WAITING), headers=headers)):
        again = run("collect", str(out), *where)
    assert (out / "traceback_rank_1.txt").read_bytes().endswith(dump(1, WAITING))
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert again.stdout.splitlines()[-1] == f"manifest: {out}/collect.json"


class Counting:
    """A worker that notes which handlers are called, and says who it is."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.calls: list[str] = []
        self.failing: set[str] = set()

    def __call__(self, connection: socket.socket) -> None:
        head = connection.recv(65536).decode()
        self.calls.append(handler := re.split("[ ?]", head.split("/handler/")[1])[0])
        said = f"Torchctl-Rank: 3\r\nTorchctl-Pid: {self.pid}\r\nTorchctl-Recorder: generic\r\n".encode()
        if handler in self.failing:
            listeners.reply(b"Handler x failed: no", status="500 E", headers=said)(connection)
        else:
            bodies = {"ping": b"pong", "info": b'{"time": 5.0, "host": "h"}', "dump_traceback": dump(self.pid, WAITING)}
            listeners.reply(bodies.get(handler, b"trace"), headers=said)(connection)


def test_what_came_before_workers_fell_silent_is_said_to_be_saved(folder: Path) -> None:
    def hangs_on_traces(connection: socket.socket) -> None:
        head = connection.recv(65536, socket.MSG_PEEK)
        if b"trace_pickle" in head:
            listeners.silent(connection)
        elif head:
            Counting(7)(connection)

    with contextlib.ExitStack() as stack:
        for rank in (3, 4):
            path = str(folder / f"rank{rank}-7.sock")
            stack.enter_context(listening(path, hangs_on_traces, read_first=False))
        result = run("collect", str(folder / "out"), "--socket", str(folder), "--timeout", "6")
    assert result.exit_code == 5
    first, second, *_ = result.stdout.splitlines()
    assert first == "everything from 0 workers"
    assert second.startswith("only part from 2 workers, ranks 3") and second.endswith(": run it again for the rest")
    assert (folder / "out" / "traceback_rank_3.txt").is_file()


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "on another host"])
def test_a_second_run_asks_a_worker_only_for_what_is_missing(folder: Path, elsewhere: bool) -> None:
    sockets, out, worker = folder / "n1", folder / "out", Counting(7)
    sockets.mkdir(mode=0o700)
    path = str(sockets / "rank3-7.sock")
    where = ["--socket", path]
    if elsewhere:
        via = f"env PYTHONPATH={os.getcwd()} TORCHCTL_RUNTIME_DIR={folder}/{{host}}"
        where = ["--nodes", "n1", "--via", via, "--remote", f"{sys.executable} -m torchctl"]
    with listening(path, worker, read_first=False):
        worker.failing = {"dump_traceback"}
        first = run("collect", str(out), *where, "--timeout", "30")
        asked = list(worker.calls)
        worker.failing, worker.calls = set(), []
        second = run("collect", str(out), *where, "--timeout", "30")
        asked_again = list(worker.calls)
        worker.calls = []
        third = run("collect", str(out), *where, "--timeout", "30")
        assert worker.calls == ["ping"]
        worker.pid, worker.calls = 8, []
        run("collect", str(out), *where, "--timeout", "30")
    assert asked == ["info", "dump_traceback", "dump_nccl_trace_pickle"]
    assert asked_again == ["ping", "dump_traceback"]
    assert "rank 3: no traceback: answered HTTP 500" in first.stdout
    assert (first.exit_code, second.exit_code, third.exit_code) == (3, 0, 0)
    assert worker.calls == ["ping", *asked]  # another process: nothing of the first one's is lost, nothing is mixed
    kept = {entry["pid"]: entry["files"] for entry in json.loads((out / "collect.json").read_text())["workers"]}
    assert kept[7]["traceback"] == "traceback_rank_3.txt"
    assert kept[8]["traceback"] == "traceback_rank_3_twin2.txt"
    assert (out / "traceback_rank_3.txt").read_bytes().endswith(dump(7, WAITING))
    assert (out / "traceback_rank_3_twin2.txt").read_bytes().endswith(dump(8, WAITING))
    offset = json.loads((out / "collect.json").read_text())["workers"][0]["clock_offset_s"]
    assert abs(offset + time.time() - 5.0) < 100


def test_the_clock_of_another_host_is_compared_with_ours_not_with_its_relays() -> None:
    step = {"status": 200, "base64": base64.b64encode(b"[]").decode(), "recorder": "", "elapsed_s": 0.0}
    step |= {"identity": {}, "answered_at": time.time() + 3600}
    seen: list[float] = []

    @Question
    def when(endpoint: Endpoint) -> Asking[Reply]:
        reply = yield handler_request("ping")
        seen.append(reply.answered_at)
        return reply

    reader = Reader("n1", when)
    reader.feed(b'{"relay":1,"time":%d}' % (time.time() + 3600))
    reader.feed(json.dumps({"worker": {"endpoint": "/s", "rank": 1, "steps": [step]}}).encode())
    assert [one.error for one in reader.outcomes] == [None]
    assert abs(seen[0] - time.time()) < 60


def test_a_full_disk_is_said_once_and_leaves_no_torn_file(folder: Path) -> None:
    out = folder / "out"
    code = (
        "import resource, sys\nfrom torchctl.cli import cli\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "cli.main(['collect', sys.argv[1], '--socket', sys.argv[2], '--timeout', '20'])\n"
    )
    with contextlib.ExitStack() as stack:
        for rank in range(5):
            big = listeners.reply(dump(rank, WAITING * 30), headers=f"Torchctl-Rank: {rank}\r\n".encode())
            stack.enter_context(listening(str(folder / f"rank{rank}-1.sock"), big))
        command = [sys.executable, "-c", code, str(out), str(folder)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "File too large" in result.stderr
    assert "Traceback" not in result.stderr
    assert [path.name for path in out.iterdir()] == []


@pytest.mark.parametrize(
    "worker",
    [
        {"rank": "x"},
        {"files": {"traceback": "../../etc/passwd"}},
        {"files": {"traceback": 3}},
        {"failures": {"traceback": []}},
        {"endpoint": None},
        {"pid": -1},
        {"world_size": 1e9},
        None,
    ],
)
def test_a_manifest_of_another_form_is_refused(folder: Path, worker: dict[str, object] | None) -> None:
    whole = {"endpoint": "/s", "rank": 1, "pid": 2, "world_size": 3, "files": {}, "failures": {}}
    workers = [None if worker is None else {**whole, **worker}]
    (folder / "collect.json").write_text(json.dumps({"schema": "torchctl.collect/1", "workers": workers}))
    (folder / "traceback_rank_3.txt").write_bytes(dump(3, WAITING))
    for command in (["traceback", str(folder)], ["collect", str(folder)]):
        result = run(*command)
        assert result.exit_code == 1
        assert "was not written by `torchctl collect`" in result.stderr


def test_two_that_claim_a_rank_have_files_of_their_own(folder: Path) -> None:
    out = folder / "out"
    answer = listeners.reply(dump(1, WAITING), headers=b"Torchctl-Rank: 1\r\n")
    with listening(str(folder / "a"), answer), listening(str(folder / "b"), answer):
        run("collect", str(out), "--socket", str(folder / "a"), "--socket", str(folder / "b"))
    assert {"traceback_rank_1.txt", "traceback_rank_1_twin2.txt"} <= {path.name for path in out.iterdir()}
    assert "2 workers: 1@" in run("traceback", str(out)).stdout


def test_nccl_trace_reads_the_folder(folder: Path) -> None:
    dump_ = {"version": "2.10", "entries": [], "pg_config": {}, "pg_status": {}}
    (folder / "nccl_trace_rank_3").write_bytes(pickle.dumps(dump_))
    (folder / "traceback_rank_3.txt").write_bytes(dump(3, WAITING))
    result = run("nccl-trace", str(folder))
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, f"rank 3: {folder}/nccl_trace_rank_3")
    (folder / "nccl_trace_rank_3").unlink()
    empty = run("nccl-trace", str(folder))
    assert (empty.exit_code, "no flight-recorder dump in" in empty.stderr) == (1, True)


def test_a_folder_of_somebody_else_is_left_alone(worker: Path, folder: Path) -> None:
    (folder / "collect.json").write_text('{"mine": 1}')
    result = run("collect", str(folder), "--socket", str(worker))
    assert result.exit_code == 1
    assert "was not written by `torchctl collect`" in result.stderr
    assert (folder / "collect.json").read_text() == '{"mine": 1}'
    assert run("collect", str(folder / "collect.json")).exit_code == 2


def test_workers_of_other_hosts_are_collected_through_their_relay(worker: Path, folder: Path) -> None:
    out = folder / "out"
    worker.chmod(0o700)
    via = f"env PYTHONPATH={os.getcwd()} TORCHCTL_RUNTIME_DIR={worker} HOSTNAME={{host}}"
    remote = f"{sys.executable} -m torchctl"
    result = run("collect", str(out), "--nodes", "n1", "--via", via, "--remote", remote, "--timeout", "30")
    assert result.exit_code == 0, result.stderr
    assert {"collect.json", "info_rank_3.json", "traceback_rank_3.txt"} <= {path.name for path in out.iterdir()}
