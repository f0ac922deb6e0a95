"""The commands when a worker cannot answer: what they show of it, its stack apart from the others', the exit code."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.folders import short_folder
from tests.processes import Process, python
from tests.sentinels import alive, degraded, eventually, held, stop, worker
from torchctl.cli import cli
from torchctl.process.pyspy import find_pyspy

CODE = "def train():\n    sys.stdin.readline()\ntrain()\n"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="torchctl")


def steady(text: str) -> str:
    text = re.sub(r"\d\d:\d\d:\d\d(?:\.\d{3})?", "HH:MM:SS", text)
    return re.sub(r" *\b\d+(?:\.\d+)?(?:ms|s)\b(?=  pid)", " N ms", text)


@pytest.fixture(scope="module")
def stopped_job() -> Iterator[tuple[list[Process], Path]]:
    """Three ranks in a runtime folder; rank 1 is stopped, and its sentinel answers."""
    with contextlib.ExitStack() as stack:
        runtime_dir = stack.enter_context(short_folder())
        about = {"WORLD_SIZE": "3", "TORCHCTL_JOB_ID": "j", "TORCHCTL_RUNTIME_DIR": str(runtime_dir)}
        paths = [runtime_dir / f"rank{rank}-0.sock" for rank in range(3)]
        processes = []
        for rank, path in enumerate(paths):
            process, _ = stack.enter_context(worker(path, CODE, environment={**about, "RANK": str(rank)}))
            processes.append(process)
        stop(processes[1].pid)
        degraded(paths[1])
        yield processes, runtime_dir


@pytest.fixture
def job(
    stopped_job: tuple[list[Process], Path], own_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Process], Path]:
    """The job, whose runtime folder the commands look into."""
    monkeypatch.setenv("TORCHCTL_RUNTIME_DIR", str(stopped_job[1]))
    return stopped_job


def through_relay(folder: Path) -> list[str]:
    """Return the options that reach the workers of a runtime folder as if it were another host's."""
    via = f"env PYTHONPATH={os.getcwd()} TORCHCTL_RUNTIME_DIR={folder} HOST={{host}}"
    return ["--nodes", "n1", "--via", via, "--remote", f"{sys.executable} -m torchctl", "--timeout", "20"]


REASON = "stopped by a signal (SIGSTOP or SIGTSTP); SIGCONT resumes it"


def test_ping_ps_and_call_say_degraded_and_exit_with_3(job: tuple[list[Process], Path]) -> None:
    pid = job[0][1].pid
    result = run("ping", "--timeout", "20")
    assert result.exit_code == 3
    assert steady(result.stdout).splitlines()[1].split(maxsplit=6) == [
        "rank", "1", "degraded", "N", "ms", "pid",
        f"{pid}  {job[1]}/rank1-0.sock  since HH:MM:SS: {REASON}",
    ]  # fmt: skip
    states = [one["state"] for one in json.loads(run("ping", "--json").stdout)["workers"]]
    assert states == ["ok", "degraded", "ok"]
    result = run("ps", "--timeout", "20")
    assert result.exit_code == 3
    lines = result.stdout.splitlines()
    assert [line.split()[-2] for line in lines[1:4]] == ["ok", "degraded", "ok"]
    assert steady(lines[-1]) == f"rank 1 degraded since HH:MM:SS: {REASON}"
    (told,) = [one for one in json.loads(run("ps", "--json").stdout)["workers"] if one["state"] == "degraded"]
    assert (told["rank"], told["reason"], told["pid"]) == (1, REASON, pid)
    for command in (["handlers"], ["call", "ping"]):
        result = run(*command, "--timeout", "20")
        assert result.exit_code == 3
        said = f"torchctl: rank 1: its sentinel answered in its place: degraded since HH:MM:SS: {REASON}\n"
        assert steady(result.stderr) == said
    listed = json.loads(run("handlers", "--json", "--timeout", "20").stdout)["workers"]
    assert [one["degraded"] for one in listed] == [None, REASON, None]
    result = run("call", "torch_profile", "--ranks", "1", "-p", "duration=1")
    assert result.exit_code == 3
    assert "cannot answer for itself: degraded since" in result.stderr and REASON in result.stderr


@pytest.mark.skipif(find_pyspy() is None, reason="py-spy is not installed")
def test_its_stack_stands_apart_from_the_others(
    job: tuple[list[Process], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    result = run("traceback", "--timeout", "20")
    assert result.exit_code == 3
    lines = result.stdout.splitlines()
    assert lines[:2] == ["2 ranks answered of 3, job j", f"  1 rank cannot answer: 1, {REASON}"]
    assert f"read from outside: 1 rank: 1, {REASON}" in lines
    assert any(line.startswith("main thread: 2 ranks: 0,2") for line in lines)
    assert not any("0-2" in line for line in lines)
    document = json.loads(run("traceback", "--timeout", "20", "--json").stdout)
    (merged,) = document["jobs"]
    assert [one["ranks"] for one in merged["classes"]] == [[0, 2]]
    assert [(one["reason"], one["classes"][0]["ranks"]) for one in merged["outside"]] == [(REASON, [1])]
    assert [one["degraded"] for one in document["workers"]] == [None, REASON, None]
    alone = run("traceback", "--ranks", "1", "--timeout", "20")
    assert alone.exit_code == 3
    assert f"  read from outside: {REASON}" in alone.stdout and " in train" in alone.stdout


@pytest.mark.parametrize("command", ["ping", "ps", "call torch_profile --ranks 1"])
def test_a_relay_passes_on_what_a_sentinel_says(job: tuple[list[Process], Path], command: str) -> None:
    direct = run(*command.split(), "--timeout", "20")
    relayed = run(*command.split(), *through_relay(job[1]))
    assert relayed.exit_code == direct.exit_code == 3
    assert facts(relayed.stdout.replace("found by --nodes (3)", "")) == facts(direct.stdout)
    assert facts(relayed.stderr) == facts(direct.stderr)


def facts(text: str) -> list[str]:
    """Return the words of an output without what differs from run to run, and without the name of the host."""
    return re.sub(r"\b\d+s\b", "Ns", steady(text).replace("n1:", "")).split()


@pytest.mark.skipif(find_pyspy() is None, reason="py-spy is not installed")
def test_a_stack_read_from_outside_stands_apart_through_a_relay_too(
    job: tuple[list[Process], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    direct = run("traceback", "--timeout", "20")
    relayed = run("traceback", *through_relay(job[1]))
    assert f"read from outside: 1 rank: 1, {REASON}" in relayed.stdout
    assert (relayed.exit_code, relayed.stdout, relayed.stderr) == (3, direct.stdout, direct.stderr)


def test_diagnose_counts_a_rank_that_cannot_answer_as_lost_through_a_relay(job: tuple[list[Process], Path]) -> None:
    direct = run("diagnose", "--interval", "0.1", "--timeout", "20")
    relayed = run("diagnose", "--interval", "0.1", *through_relay(job[1]))
    assert "ranks seen: 0,2 (2 of 3); missing: 1\n" in relayed.stdout
    assert f"Cannot tell: rank 1 cannot answer for itself: {REASON}.\n" in relayed.stdout
    assert (relayed.exit_code, relayed.stdout, relayed.stderr) == (direct.exit_code, direct.stdout, direct.stderr)


def test_a_dead_worker_has_its_last_word_in_ps(folder: Path, own_environment: Path) -> None:
    own_environment.mkdir(mode=0o700)
    path = own_environment / "rank3-0.sock"
    code = "s.report_step(1203)\nprint('reported', flush=True)\nsys.stdin.readline()\n"
    with worker(path, code, environment={"RANK": "3"}) as (process, sentinel):
        process.wait_for("reported")
        process.popen.kill()
        eventually(lambda: not alive(sentinel))
        process.popen.wait(10)
    result = run("ps")
    assert result.exit_code == 3
    assert steady(result.stdout) == f"rank 3, pid {process.pid}: died HH:MM:SS, SIGKILL, step 1203\n"
    document = json.loads(run("ps", "--json").stdout)
    assert [(word["pid"], word["cause"]) for word in document["died"]] == [(process.pid, "SIGKILL")]
    named = run("ping", "--socket", str(path))
    assert steady(named.stderr).startswith(
        f"torchctl: {path} refused the connection; died HH:MM:SS, SIGKILL, step 1203\n"
    )
    elsewhere = run("ping", *through_relay(own_environment))
    assert steady(elsewhere.stderr).startswith(
        f"torchctl: rank 3: n1:{path} refused the connection; died HH:MM:SS, SIGKILL, step 1203\n"
    )
    told = run("doctor", "--socket", str(path))
    assert (told.exit_code, steady(told.stdout).splitlines()[0]) == (
        3,
        f"process {process.pid} died HH:MM:SS, SIGKILL, step 1203",
    )
    with worker(own_environment / "rank0-0.sock", CODE, environment={"RANK": "0", "WORLD_SIZE": "4"}):
        beside = run("ps", "--ranks", "0,3")
    assert "died" not in beside.stdout and "refused" in beside.stdout
    assert [steady(line) for line in beside.stderr.splitlines()] == [
        f"torchctl: rank 3: {path} refused the connection; died HH:MM:SS, SIGKILL, step 1203",
        "  check the job's log",
    ]
    eventually(lambda: len(list(own_environment.glob("*.died"))) == 2)
    forgotten = run("ps", "--forget")
    assert forgotten.stdout == "" and forgotten.exit_code == 3
    assert not list(own_environment.glob("*.died"))


def test_silence_without_a_sentinel_has_a_cause_too(folder: Path) -> None:
    path = folder / "s"
    code = f"import sys, torchctl.server as s\nserver = s.WorkerServer({str(path)!r}, sentinel=False)\n"
    with python(code + "print('ready', flush=True)\nsys.stdin.readline()\n") as process:
        process.wait_for("ready")
        stop(process.pid)
        result = run("ping", "--socket", str(path), "--timeout", "1")
        assert result.exit_code == 5
        cause = f"; its process {process.pid}: {REASON}; it has no sentinel\n"
        assert re.search(r"did not answer within [0-9.]+m?s" + re.escape(cause), result.stderr)
        assert result.stderr.splitlines()[1:] == [
            f"  `torchctl doctor {process.pid}` shows everything known about the process and what blocks it"
        ]
        traces = run("nccl-trace", "--socket", str(path), "--timeout", "1")
        assert traces.exit_code == 5
        assert traces.stderr.splitlines()[1:] == result.stderr.splitlines()[1:]
        told = run("doctor", "--socket", str(path), "--timeout", "1")
        assert told.exit_code == 3
        assert f"process {process.pid} cannot answer: {REASON}" in told.stdout
        assert "none: nothing answers for the process when it cannot" in told.stdout
        os.kill(process.pid, signal.SIGCONT)


def test_silence_on_tcp_of_this_host_has_a_cause(folder: Path) -> None:
    code = "import sys, torchctl.server as s\nserver = s.WorkerServer('127.0.0.1', 0, sentinel=False)\n"
    with python(code + "print(server.port, flush=True)\nsys.stdin.readline()\n") as process:
        port = process.line()
        stop(process.pid)
        result = run("ping", "--host", f"127.0.0.1:{port}", "--timeout", "1")
        assert f"its process {process.pid}: {REASON}" in result.stderr
        os.kill(process.pid, signal.SIGCONT)


def test_a_held_lock_without_a_sentinel_is_found(folder: Path) -> None:
    path = folder / "s"
    code = (
        f"import ctypes, sys, torchctl.server as s\nserver = s.WorkerServer({str(path)!r}, sentinel=False)\n"
        "print('holding', flush=True)\nctypes.PyDLL(None).sleep(60)\n"
    )
    with python(code) as process:
        held(process)
        result = run("ping", "--socket", str(path), "--timeout", "1")
        assert "interpreter lock held; its main thread is sleeping" in result.stderr


def test_doctor_explains_a_worker_and_a_process_that_never_had_a_server(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with worker(folder / "s", CODE, environment={"RANK": "4", "WORLD_SIZE": "8"}) as (process, sentinel):
        result = run("doctor", str(process.pid), "--json")
        assert result.exit_code == 0
        assert json.loads(result.stdout)["verdict"] == f"process {process.pid} answers for itself"
        facts = json.loads(result.stdout)["facts"]
        assert facts["rank"] == "4 of 8"
        assert facts["server"].startswith(f"{folder}/s: answers, ")
        assert facts["sentinel"] == f"pid {sentinel}"
        assert facts["interpreter lock"] == "no thread is waiting for it"
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        try:
            result = run("doctor", str(sleeper.pid), "--timeout", "5")
            assert result.exit_code == 0
            assert "has no server, and /proc shows nothing that blocks it" in result.stdout
            assert "Stack backtrace" not in result.stdout  # py-spy's own, of why it cannot read what is no Python
            monkeypatch.setenv("COLUMNS", "50")
            narrow = run("doctor", str(sleeper.pid), "--timeout", "5").stdout
            assert max(map(len, narrow.splitlines())) <= 50 < max(map(len, result.stdout.splitlines()))
            monkeypatch.delenv("COLUMNS")
            stop(sleeper.pid)
            result = run("doctor", str(sleeper.pid), "--timeout", "5")
            assert (result.exit_code, result.stdout.splitlines()[0]) == (
                3,
                f"process {sleeper.pid} has no server: {REASON}",
            )
        finally:
            sleeper.kill()


@pytest.mark.parametrize("arguments", [[], ["1", "--socket", "/x"], ["0"], ["x"]])
def test_doctor_wants_one_process(arguments: list[str]) -> None:
    assert run("doctor", *arguments).exit_code == 2


def test_doctor_of_nobody() -> None:
    result = run("doctor", "4194303")
    assert (result.exit_code, result.stdout) == (3, "there is no process 4194303, and it left no last word\n")
    result = run("doctor", "--socket", "/nowhere/s")
    assert result.exit_code == 3 and "nothing listens on /nowhere/s" in result.stderr
