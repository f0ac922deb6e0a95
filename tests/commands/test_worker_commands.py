"""The worker commands against live servers: whole stdout, stderr and exit code."""

import json
import os
import re
import socket
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests import listeners
from tests.listeners import listening
from tests.stacks.texts import WAITING, dump
from torchctl.cli import cli
from torchctl.server import WorkerServer
from torchctl.workers.ask import outside


def run(*arguments: str, **keywords: str | bytes) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="torchctl", **keywords)  # type: ignore[arg-type]


def steady(text: str) -> str:
    """Return output with its times replaced."""
    return re.sub(r" *\b\d+(?:\.\d+)?(?:ms|s)\b(?=  pid)", " N ms", text)


def test_ping_prints_one_line_per_worker(worker: str) -> None:
    result = run("ping")
    assert steady(result.stdout) == f"rank 3  pong N ms  pid {os.getpid()}  {worker}\n"
    assert (result.stderr, result.exit_code) == ("", 0)


def test_ping_json_is_one_sorted_object(worker: str) -> None:
    result = run("ping", "--json")
    document = json.loads(result.stdout)
    assert list(document) == sorted(document)
    rtt = document["workers"][0].pop("rtt_ms")
    assert 0 < rtt < 10_000
    assert document == {
        "schema": "torchctl.ping/1",
        "workers": [{"rank": 3, "pid": os.getpid(), "endpoint": worker, "state": "ok", "reason": None, "since": None}],
        "failures": [],
        "missing_ranks": [],
        "not_found": [],
    }


def test_nobody_to_ask_is_3_and_says_what_to_do(own_environment: Path) -> None:
    result = run("ping")
    assert (result.stdout, result.exit_code) == ("", 3)
    assert result.stderr == (
        f"torchctl: no worker found: {own_environment} has no sockets\n"
        "  start the job with `python -m torchctl.server train.py`, or name a worker with --socket or --host\n"
    )


@pytest.mark.parametrize("command", ["ping", "ps", "traceback", "nccl-trace", "handlers", "call ping"])
def test_json_is_one_object_even_when_nobody_is_found(command: str) -> None:
    result = run(*command.split(), "--json")
    assert result.exit_code == 3
    document = json.loads(result.stdout)
    assert document["schema"] == f"torchctl.{command.split()[0]}/1"
    assert document["error"]["kind"] == "no_workers"


def test_a_healthy_worker_behind_many_silent_ones_is_healthy(worker: str, folder: Path) -> None:
    with listening(str(folder / "silent"), listeners.silent):
        (folder / "many").mkdir()
        for index in range(80):
            os.link(folder / "silent", folder / "many" / f"{index}.sock")
        result = run("ping", "--socket", str(folder / "many"), "--socket", worker, "--timeout", "6")
    assert (result.stdout.count("pong"), result.exit_code) == (1, 3)


def test_a_mixed_result_prints_what_there_is_and_is_3(worker: str, folder: Path) -> None:
    result = run("ping", "--socket", worker, "--socket", str(folder / "none"))
    assert steady(result.stdout) == f"rank 3  pong N ms  pid {os.getpid()}  {worker}\n"
    assert result.stderr == (
        f"torchctl: {folder}/none does not exist\n"
        "  check the path, and that the job runs on this host; `torchctl ps` lists the workers it finds\n"
    )
    assert result.exit_code == 3


@pytest.mark.parametrize("command", ["ping", "ps", "traceback", "handlers", "call ping"])
@pytest.mark.parametrize(
    ("serve", "code", "word"),
    [
        (listeners.silent, 5, "did not answer within"),
        (listeners.dripping, 5, "did not answer within"),
        (listeners.saying(b"garbage\r\n\r\n"), 3, "not a worker's HTTP"),
        (listeners.saying(b""), 3, "closed the connection"),
    ],
)
def test_a_failure_has_the_same_code_in_every_command(
    folder: Path, command: str, serve: listeners.Serve, code: int, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside, "find_pyspy", lambda: None)  # `traceback` would have a stack from it, and exit with 3
    path = str(folder / "s")
    with listening(path, serve):
        began = time.monotonic()
        result = run(*command.split(), "--socket", path, "--timeout", "1.5")
        assert time.monotonic() - began < 90
    assert result.exit_code == code
    assert word in result.stderr
    assert path in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", ["ping", "ps", "traceback", "handlers", "call x"])
@pytest.mark.parametrize("body", [b"", b"null", b"[1]", b'"x"', b"{}", b"[" * 4000, b"\xff" * 100])
def test_a_worker_that_answers_nonsense_is_named(folder: Path, command: str, body: bytes) -> None:
    path = str(folder / "s")
    with listening(path, listeners.reply(body)):
        result = run(*command.split(), "--socket", path, "--timeout", "5")
    if command == "call x":
        assert (result.exit_code, result.stdout_bytes) == (0, body)
    else:
        assert result.exit_code == 3
        assert path in result.stderr
        assert "Traceback" not in result.output


def test_two_that_time_out_alike_are_5(folder: Path) -> None:
    with listening(str(folder / "a"), listeners.silent), listening(str(folder / "b"), listeners.silent):
        result = run("ping", "--socket", str(folder), "--timeout", "1.5")
    assert result.exit_code == 5
    assert result.stderr.count("did not answer within") == 2
    assert result.stderr.count("may be slow: try a longer --timeout") == 1  # the hint, once


def test_leftovers_of_killed_workers_are_left_aside(worker: str, own_environment: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(own_environment / "rank5-99.sock"))
    result = run("ping")
    assert result.exit_code == 0
    assert result.stdout.count("\n") == 1
    assert result.stderr == "torchctl: ignored: the socket of a worker that has ended (rank5-99.sock)\n"
    named = run("ping", "--socket", str(own_environment))
    assert named.exit_code == 3
    assert "rank 5: " in named.stderr


def test_a_killed_ranks_socket_is_a_rank_without_an_answer(
    worker: str, own_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    for name in ("rank5-9999999.sock", "rank9-9999999.sock", "rank3-9999999.sock"):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(own_environment / name))
    result = run("ping")
    assert result.exit_code == 3
    assert result.stderr.splitlines()[:2] == [
        f"torchctl: rank 5: {own_environment}/rank5-9999999.sock refused the connection; its process 9999999 has ended",
        "torchctl: ranks 0-2,4,6-7: not found (6)",
    ]
    assert result.stderr.splitlines()[-1] == (
        "torchctl: ignored: 2 sockets of workers that have ended (rank3-9999999.sock, rank9-9999999.sock)"
    )


def test_ranks_of_which_nothing_is_found_are_listed(worker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    for command in (["ping"], ["ps"], ["traceback"], ["handlers"], ["call", "ping"], ["nccl-trace"]):
        result = run(*command)
        assert (result.exit_code, result.stderr) == (0, "torchctl: ranks 0-2,4-7: not found (7)\n")
        assert run(*command, "--ranks", "3").stderr == ""
        named = run(*command, "--ranks", "3,5")
        assert (named.exit_code, named.stderr) == (3, "torchctl: rank 5: no worker found\n")
        assert run(*command, "--socket", worker).stderr == ""
    assert json.loads(run("ping", "--json").stdout)["not_found"] == [{"job_id": None, "ranks": [0, 1, 2, 4, 5, 6, 7]}]


def test_many_failures_of_a_kind_are_one_line(worker: str, folder: Path) -> None:
    hosts = folder / "hosts"
    with socket.socket() as refusing:
        refusing.bind(("127.0.0.1", 0))
        port = refusing.getsockname()[1]
        hosts.write_text("".join(f"127.0.0.1:{port} rank={rank}\n" for rank in (17, *range(40, 48))))
        result = run("ping", "--hostfile", str(hosts), "--socket", worker)
    assert result.exit_code == 3
    assert result.stderr.splitlines()[0] == "torchctl: ranks 17,40-47: refused (9)"
    assert len(result.stderr.splitlines()) == 2


def test_workers_of_two_jobs_and_a_rank_claimed_twice_are_said(
    worker: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = b"Torchctl-Rank: 3\r\nTorchctl-Job: other\r\n"
    twin = b"Torchctl-Rank: 3\r\nTorchctl-Job: mine\r\n"
    monkeypatch.setenv("TORCHCTL_JOB_ID", "mine")
    with (
        listening(str(folder / "a"), listeners.reply(b"pong", headers=head)),
        listening(str(folder / "b"), listeners.reply(b"pong", headers=twin)),
    ):
        named = ["--socket", worker, "--socket", str(folder / "a"), "--socket", str(folder / "b")]
        both = run("ping", *named)
        mine = run("ping", *named, "--job", "other")
    assert both.stderr == (
        "torchctl: workers of 2 jobs answered: mine (2), other (1); --job ID picks one\n"
        f"torchctl: rank 3 is claimed by 2 workers: {worker}, {folder}/b\n"
    )
    assert mine.stdout.count("pong") == 1
    assert mine.stderr == "torchctl: ignored: 2 workers of other jobs, or that do not report their job\n"


def test_an_untrusted_runtime_folder_is_not_looked_into(worker: str, own_environment: Path) -> None:
    own_environment.chmod(0o755)
    result = run("ping")
    assert result.exit_code == 1
    assert f"the runtime folder {own_environment} is open to others" in result.stderr
    assert f"chmod 700 {own_environment}" in result.stderr


def test_ranks_filter_by_the_workers_own_answer(worker: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with WorkerServer("127.0.0.1", 0) as other:
        address = f"127.0.0.1:{other.port}"
        assert run("ping", "--socket", worker, "--host", address, "--ranks", "0-7").stdout.count("pong") == 2
    result = run("ping", "--ranks", "2-4")
    assert result.stdout.count("pong") == 1
    assert result.stderr == "torchctl: rank 2,4: no worker found\n"
    assert result.exit_code == 3
    result = run("ping", "--ranks", "5")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "no worker found for rank 5" in result.stderr


def test_a_silent_worker_may_be_the_rank_asked_for(own_environment: Path) -> None:
    own_environment.mkdir(mode=0o700)
    with listening(str(own_environment / "rank5-99.sock"), listeners.silent):
        result = run("ping", "--ranks", "5", "--timeout", "2")
    assert result.exit_code == 5
    assert "rank 5: " in result.stderr


def test_the_environment_names_the_workers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with WorkerServer(str(folder / "w")), WorkerServer(str(folder / "w.1")), WorkerServer(str(folder / "w.x")):
        monkeypatch.setenv("TORCH_WORKER_SERVER_SOCKET", str(folder / "w"))
        assert [line.split()[-1] for line in run("ping").stdout.splitlines()] == [f"{folder}/w", f"{folder}/w.1"]
        monkeypatch.setenv("TORCH_WORKER_SERVER_SOCKET", str(folder / "w.{local_rank}"))
        assert [line.split()[-1] for line in run("ping").stdout.splitlines()] == [f"{folder}/w.1", f"{folder}/w.x"]
        monkeypatch.setenv("TORCH_WORKER_SERVER_SOCKET", str(folder / "none"))
        result = run("ping")
        assert (result.exit_code, f"{folder}/none does not exist" in result.stderr) == (3, True)


def test_an_address_where_another_rank_answers_than_was_named_is_said(folder: Path) -> None:
    hosts = folder / "hosts"
    hosts.write_text(f"{folder}/a rank=4\n{folder}/b rank=1\n")
    answers = [listeners.reply(b"pong", headers=f"Torchctl-Rank: {rank}\r\n".encode()) for rank in (3, 1)]
    with listening(str(folder / "a"), answers[0]), listening(str(folder / "b"), answers[1]):
        result = run("ping", "--hostfile", str(hosts))
    assert result.stderr == f"torchctl: {folder}/a was given as rank 4, but rank 3 answers there\n"


def test_a_world_size_that_no_job_has_is_left_aside(folder: Path) -> None:
    sized = listeners.reply(dump(0, WAITING), headers=b"Torchctl-Rank: 0\r\nTorchctl-World-Size: 999999999\r\n")
    with listening(str(folder / "a"), sized), listening(str(folder / "b"), sized):
        result = run("traceback", "--socket", str(folder / "a"), "--socket", str(folder / "b"))
    assert result.stdout.startswith("2 workers answered\n")
    assert "not found" not in result.stderr


def test_traceback_shows_the_callers_line(worker: str) -> None:
    result = run("traceback", "--all-threads")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"rank 3  pid {os.getpid()}  {worker}\n")
    assert "test_traceback_shows_the_callers_line" in result.stdout
    assert "MainThread (0x" in result.stdout
    assert "thread of torchctl's own server" in result.stdout or "threads of torchctl's own server" in result.stdout
    document = json.loads(run("traceback", "--json").stdout)
    threads = document["workers"][0]["threads"]
    assert document["schema"] == "torchctl.traceback/1"
    assert any(thread["main"] and thread["name"] == "MainThread" for thread in threads)


def test_what_a_worker_sends_is_neither_markup_nor_control(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    frame = {"file": "/x/[bold]a.py", "line": 3, "function": "f\x1b[2J"}
    thread = {"id": 1, "name": "[red]MainThread", "main": True, "complete": True, "frames": [frame]}
    body = json.dumps({"schema": "torchctl.stacks/1", "threads": [thread]}).encode()
    with listening(str(folder / "s"), listeners.reply(body)):
        result = run("traceback", "--socket", str(folder / "s"))
    assert "[red]MainThread" in result.stdout
    assert "> /x/[bold]a.py:3 in f\\x1b[2J\n" in result.stdout
    info = {
        "schema": "torchctl.info/1",
        "rank": "x" * 10,
        "host": "[red]h\x1b",
        "pid": True,
        "uptime_s": 1e400,
        "step": 3,
    }
    (folder / "s").unlink()
    with listening(str(folder / "s"), listeners.reply(json.dumps(info).encode())):
        result = run("ps", "--socket", str(folder / "s"))
    assert "[red]h\\x1b" in result.stdout
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["ping", "--ranks", "3-"],
        ["ping", "--socket", ""],
        ["ping", "--pid", "abcdefghijkl"],
        ["ping", "--pid", "123456789012"],
        ["ping", "--host", "nowhere"],
        ["ping", "--timeout", "0"],
        ["ping", "--timeout", "nan"],
        ["ping", "--format", "xml"],
        ["ping", "--nonsense"],
        ["call"],
        ["call", "x", "-p", "novalue"],
        ["call", "x", "-p", "a=1", "-p", "a=2"],
        ["call", "x", "--body", "/does/not/exist"],
        ["nonsense"],
    ],
)
def test_usage_errors_are_2(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage: torchctl" in result.stderr


def test_a_worker_too_slow_for_its_first_frames_has_the_option_named_that_leaves_them_out(folder: Path) -> None:
    path = str(folder / "s")
    with listening(path, listeners.silent):
        framed = run("nccl-trace", "--socket", path, "--timeout", "0.3")
        bare = run("nccl-trace", "--socket", path, "--timeout", "0.3", "--no-stacktraces")
    assert framed.exit_code == bare.exit_code == 5
    assert f"its process {os.getpid()} is running" in framed.stderr
    assert framed.stderr.splitlines()[1:] == [
        "  the first dump with stack frames of a process takes it a second, and longer under load:"
        " try a longer --timeout, or --no-stacktraces"
    ]
    assert bare.stderr.splitlines()[1:] == [
        f"  the process is running and may be slow: try a longer --timeout, then `torchctl doctor {os.getpid()}`"
    ]
