"""`ps`, `handlers` and `call` against live servers: whole stdout, stderr and exit code."""

import json
import os
import re
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests import listeners
from tests.listeners import listening
from torchctl.cli import cli
from torchctl.server import Request, Response, WorkerServer, handler, report_step


def run(*arguments: str, **keywords: str | bytes) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="torchctl", **keywords)  # type: ignore[arg-type]


@handler("commands-echo")
def commands_echo(request: Request, response: Response) -> None:
    response.set_content(request.get_param("text").encode() + request.body(), "application/octet-stream")


@handler("commands-refusing")
def commands_refusing(request: Request, response: Response) -> None:
    response.set_content("duration must be a number\x1b]0;x\x07", "text/plain")
    response.set_status(400)


def test_ps_lists_what_info_says(worker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a-rather-long-job-id")
    monkeypatch.setenv("COLUMNS", "200")
    report_step(1203)
    result = run("ps")
    assert result.exit_code == 0
    head, row = result.stdout.splitlines()
    assert head.split() == ["rank", "host", "pid", "job", "uptime", "step", "state", "endpoint"]
    who = rf" *3  {socket.gethostname()} +{os.getpid()}  a-rather-long-job-id +\w+"
    assert re.fullmatch(rf"{who}  1203 \(\d+s ago\)  ok +{worker} *", row)
    monkeypatch.setenv("COLUMNS", "80")
    narrow = run("ps").stdout
    assert all(len(line) <= 80 for line in narrow.splitlines())
    assert "a-rather…" in narrow
    assert f"sockets in {os.path.dirname(worker)}" in narrow.replace("\n", "")
    monkeypatch.setenv("COLUMNS", "40")
    assert run("ps").stdout.splitlines()[0].split() == ["rank", "pid", "step", "state", "endpoint"]


def test_ps_json_and_a_dead_one_on_top(worker: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    result = run("ps", "--socket", worker, "--socket", str(folder / "none"))
    *rows, how = result.stdout.splitlines()
    assert [line.split()[0] for line in rows] == ["rank", "?", "3"]
    assert how.split() == ["found", "by", "--socket", "(2)"]
    assert "no such socket" in result.stdout
    document = json.loads(run("ps", "--json").stdout)
    assert document["schema"] == "torchctl.ps/1"
    assert (document["workers"][0]["rank"], document["workers"][0]["world_size"]) == (3, 8)
    assert document["workers"][0]["found_by"] == "runtime folder"


def test_handlers_lists_names_and_who_lacks_one(worker: str, folder: Path) -> None:
    assert "ping\n" in run("handlers").stdout
    other = str(folder / "other")
    with listening(other, listeners.reply(b'["ping", "only\\u001b[31mhere"]')):
        result = run("handlers", "--socket", worker, "--socket", other)
    assert "only\\x1b[31mhere  (1 worker)\n" in result.stdout
    assert "info  (rank 3)\n" in result.stdout
    assert "\nping\n" in result.stdout
    assert "info" in json.loads(run("handlers", "--json").stdout)["workers"][0]["handlers"]


def test_call_prints_the_bytes_as_they_came(worker: str) -> None:
    result = run("call", "commands-echo", "-p", "text=a\x1b[31m=b", "--body", "-", input=b"\x00\xff")
    assert (result.stdout_bytes, result.stderr, result.exit_code) == (b"a\x1b[31m=b\x00\xff", "", 0)


def test_call_of_several_heads_each_answer(worker: str, folder: Path) -> None:
    with WorkerServer(str(folder / "b")):
        result = run("call", "commands-echo", "-p", "text=hi", "--socket", worker, "--socket", str(folder / "b"))
    assert result.stdout == f"==> rank 3 {worker} <==\nhi\n\n==> rank 3 {folder}/b <==\nhi\n"


def test_call_writes_files(worker: str, folder: Path) -> None:
    out = folder / "out"
    result = run("call", "commands-echo", "-p", "text=hi", "--output", str(out))
    assert (out.read_bytes(), result.stdout) == (b"hi", "")
    assert result.stderr == f"torchctl: rank 3: 2 bytes written to {out}\n"
    failed = run("call", "commands-echo", "--output", str(folder / "none" / "out"))
    assert failed.exit_code == 1
    assert f"{folder}/none/out cannot be written: No such file or directory" in failed.stderr
    with listening(str(folder / "s"), listeners.reply(b"x")):
        run("call", "commands-echo", "--socket", worker, "--socket", str(folder / "s"), "--output", str(out))
    assert sorted(path.name for path in folder.glob("out*")) == ["out", "out.rank3", "out.worker1"]


def test_call_writes_a_file_for_each_of_two_that_claim_a_rank(folder: Path) -> None:
    claims = [listeners.reply(body, headers=b"Torchctl-Rank: 1\r\n") for body in (b"one", b"two")]
    with listening(str(folder / "a"), claims[0]), listening(str(folder / "b"), claims[1]):
        run("call", "x", "--socket", str(folder / "a"), "--socket", str(folder / "b"), "--output", str(folder / "out"))
    assert {path.read_text() for path in folder.glob("out*")} == {"one", "two"}


def test_call_json_is_text_or_base64(worker: str) -> None:
    text = json.loads(run("call", "commands-echo", "-p", "text=hi", "--json").stdout)
    assert (text["workers"][0]["text"], text["handler"]) == ("hi", "commands-echo")
    data = json.loads(run("call", "commands-echo", "--body", "-", "--json", input=b"\xff").stdout)
    assert data["workers"][0]["base64"] == "/w=="


def test_a_handler_that_fails_or_is_unknown_is_4(worker: str) -> None:
    result = run("call", "commands-refusing")
    assert result.exit_code == 4
    assert "rank 3: " in result.stderr
    assert "answered HTTP 400: duration must be a number\\x1b]0;x\\x07" in result.stderr
    result = run("call", "nope")
    assert result.exit_code == 4
    assert "has no handler 'nope'" in result.stderr
    assert "`torchctl handlers` lists" in result.stderr
