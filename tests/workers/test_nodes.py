"""Workers of other hosts through `torchctl relay`, with a stand-in for ssh."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests import listeners
from tests.listeners import listening
from tests.stacks.texts import STUCK, WAITING, dump
from torchctl.cli import cli
from torchctl.errors import HandlerError
from torchctl.protocol.identity import NOBODY, Identity
from torchctl.server import WorkerServer
from torchctl.stacks.reader import StackReader
from torchctl.workers.ask.fanout import ask_all
from torchctl.workers.ask.question import Question
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.hosts.relay import Errand, Reader, Writer, decode_errand, recording
from torchctl.workers.questions.basic import ping, stacks_question
from torchctl.workers.questions.look import sight_question

pytestmark = pytest.mark.once

REMOTE = f"{sys.executable} -m torchctl"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="torchctl")


def stacks_of(rank: int, frames: list[tuple[str, int, str]]) -> listeners.Serve:
    head = f"Torchctl-Rank: {rank}\r\nTorchctl-World-Size: 8\r\nTorchctl-Job: j\r\nTorchctl-Pid: {rank + 100}\r\n"
    return listeners.reply(dump(rank, frames), headers=head.encode())


@pytest.fixture
def hosts(folder: Path) -> Iterator[list[str]]:
    """Two made-up hosts, each a runtime folder with three ranks; return the options that reach them."""
    with contextlib.ExitStack() as stack:
        for rank in range(6):
            host = folder / f"n{rank // 3 + 1}"
            host.mkdir(mode=0o700, exist_ok=True)
            serve = stacks_of(rank, STUCK if rank == 4 else WAITING)
            stack.enter_context(listening(str(host / f"rank{rank}-{rank + 100}.sock"), serve))
        via = f"env PYTHONPATH={os.getcwd()} TORCHCTL_RUNTIME_DIR={folder}/{{host}}"
        yield ["--nodes", "n[1-2]", "--via", via, "--remote", REMOTE, "--timeout", "20"]


def test_stacks_of_other_hosts_are_one_screen(hosts: list[str], folder: Path) -> None:
    result = run("traceback", *hosts)
    lines = result.stdout.splitlines()
    assert lines[:2] == ["6 ranks answered of 8, job j", "  ranks 6-7: not found (2)"]
    assert "├─ 1 rank: 4" in lines
    assert "└─ 5 ranks: 0-3,5" in lines
    assert result.exit_code == 0
    document = json.loads(run("traceback", *hosts, "--json").stdout)
    assert [one["endpoint"] for one in document["workers"]][4] == f"n2:{folder}/n2/rank4-104.sock"
    sampled = run("traceback", *hosts, "--samples", "2", "--interval", "0.01")
    assert "1 rank: 4  still" in sampled.stdout


def test_ranks_are_picked_on_their_hosts(hosts: list[str]) -> None:
    result = run("traceback", *hosts, "--ranks", "1,4")
    assert "2 ranks answered of 8, job j" in result.stdout
    assert (result.exit_code, result.stderr) == (0, "")
    assert "rank 7: no worker found" in run("traceback", *hosts, "--ranks", "1,7").stderr


def test_every_command_reaches_other_hosts(folder: Path) -> None:
    (folder / "n1").mkdir(mode=0o700)
    via = f"env PYTHONPATH={os.getcwd()} TORCHCTL_RUNTIME_DIR={folder}/{{host}}"
    where = ["--nodes", "n1", "--via", via, "--remote", REMOTE, "--timeout", "20"]
    with WorkerServer(str(folder / "n1" / "rank3-1.sock")):
        for command in (["ps"], ["ping"], ["handlers"], ["traceback"], ["call", "ping"]):
            result = run(*command, *where)
            assert (result.exit_code, result.stderr) == (0, ""), result.stderr
        assert run("call", "ping", *where).stdout == "pong"
        failed = run("call", "nope", *where)
        assert (failed.exit_code, "has no handler 'nope'" in failed.stderr) == (4, True)


def test_hosts_that_fail_are_told_apart(folder: Path, hosts: list[str]) -> None:
    (folder / "n3").mkdir(mode=0o700)
    script = folder / "via"
    script.write_text(
        "#!/bin/sh\n"
        "host=$1; shift\n"
        "case $host in\n"
        "  n4) echo 'sh: torchctl: not found' >&2; exit 127;;\n"
        "  n5) echo 'Permission denied (publickey).' >&2; exit 255;;\n"
        "  n6) exec sleep 60;;\n"
        "  n7) echo 'welcome to n7'; echo '{\"relay\":1}'; echo boom >&2; exit 3;;\n"
        "  n8) echo '{\"relay\":1}'; echo '{\"worker\":[]}'; exit 0;;\n"
        "esac\n"
        f'exec env PYTHONPATH={os.getcwd()} TORCHCTL_RUNTIME_DIR={folder}/$host "$@"\n'
    )
    script.chmod(0o755)
    began = time.monotonic()
    arguments = ["--nodes", "n[1-8]", "--via", f"{script} {{host}}", "--remote", REMOTE, "--timeout", "10"]
    result = run("traceback", *arguments, "--json")
    assert time.monotonic() - began < 90
    assert result.exit_code == 3
    document = json.loads(result.stdout)
    assert [one["rank"] for one in document["workers"]] == [0, 1, 2, 3, 4, 5]
    for words in (
        f"n3 has no worker: no worker found: {folder}/n3 has no sockets",
        "n4 has no torchctl: sh: torchctl: not found",
        "n5 refused the login: Permission denied (publickey).",
        "n6 did not answer within ",
        "n7 its relay ended with exit code 3: boom",
        "n8 sent a line that is not a relay's",
    ):
        assert words in result.stderr, result.stderr
    kinds = {one["kind"] for one in document["failures"]}
    assert kinds == {"no_workers", "no_torchctl", "no_login", "host_timeout", "unreachable", "not_a_worker"}


def test_many_hosts_that_fail_alike_are_one_line() -> None:
    result = run("ping", "--nodes", "n[001-064]", "--via", "false {host}", "--timeout", "20")
    assert "torchctl: n[001-064]: unreachable (64)\n" in result.stderr
    assert result.exit_code == 3


@pytest.mark.parametrize(
    "name",
    ["-oProxyCommand=touch F", "a\nx;touch F", "a;touch F", "n[1-2];touch F", "$(touch F)", "@all", "a|b", "a b"],
)
def test_no_name_reaches_a_shell_or_becomes_an_option(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for via in ([], ["--via", "echo {host}"]):
        result = run("ping", "--nodes", name, *via, "--timeout", "3")
        assert result.exit_code == 2
        assert "Traceback" not in result.stderr
    assert not (folder / "F").exists()


def test_a_via_without_a_place_for_the_host_is_a_usage_error() -> None:
    assert run("ping", "--nodes", "a", "--via", "srun").exit_code == 2


@pytest.mark.parametrize(
    "word",
    [
        "",
        "x",
        "e30",
        "bm90anNvbg",
        Errand("nope", {}, 5.0).encoded(),
        Errand("ping", {}, -1.0).encoded(),
        Errand("call", {}, 1.0).encoded(),
    ],
)
def test_a_relay_refuses_what_is_no_errand(word: str) -> None:
    assert run("relay", word).exit_code == 2


def test_an_errand_is_one_harmless_word() -> None:
    errand = Errand("call", {"handler": "$(x); '", "params": {"a": "b c"}, "body": ""}, 2.5, [1, 2], "j")
    word = errand.encoded()
    assert word.replace("-", "").replace("_", "").isalnum()
    assert decode_errand(word) == errand


def test_equal_stacks_travel_once(folder: Path) -> None:
    with contextlib.ExitStack() as stack:
        asked = []
        for rank in range(8):
            stack.enter_context(listening(str(folder / str(rank)), stacks_of(rank, STUCK if rank == 5 else WAITING)))
            asked.append(Endpoint(path=str(folder / str(rank))))
        outcomes = ask_all(asked, recording(stacks_question(form="text")), time.monotonic() + 20)
        direct = ask_all(asked, stacks_question(StackReader().read, form="text"), time.monotonic() + 20)
    writer = Writer()
    lines = [line for one in outcomes for line in writer.lines(one)]
    texts = [line for line in lines if '"text"' in line]
    assert len(texts) == 3  # nothing above the first heading, and two stacks
    reader = Reader("n", stacks_question(StackReader().read))
    for line in [*lines, '{"end":8}']:
        reader.feed(line.encode())
    assert reader.ended
    assert [one.value for one in reader.outcomes] == [one.value for one in direct]
    assert [one.identity for one in reader.outcomes] == [one.identity for one in direct]


def test_failures_travel_as_what_they_are(folder: Path) -> None:
    bad = listeners.reply(b"Handler ping failed: x", status="500 E", headers=b"Torchctl-Pid: 3\r\n")
    with listening(str(folder / "a"), bad):
        asked = [Endpoint(path=str(folder / name)) for name in ("a", "none")]
        outcomes = ask_all(asked, recording(ping), time.monotonic() + 20)
        direct = ask_all(asked, ping, time.monotonic() + 20)
    reader = Reader("n", ping)
    for one in outcomes:
        for line in Writer().lines(one):
            reader.feed(line.encode())
    for here, there in zip(direct, reader.outcomes, strict=True):
        assert here.error is not None
        assert there.error is not None
        assert type(there.error) is type(here.error)
        assert there.error.detail == here.error.detail
    assert isinstance(reader.outcomes[0].error, HandlerError)


def test_what_a_relay_says_of_ranks_is_checked() -> None:
    reader = Reader("n", ping)
    for rank in (-5, True, 10**12, "7", None):
        error = {"kind": "refused", "detail": "no", "rank": rank, "status": None}
        reader.feed(json.dumps({"worker": {"endpoint": "/s", "rank": rank, "steps": [{"error": error}]}}).encode())
    assert {(one.endpoint.rank, one.error and one.error.rank) for one in reader.outcomes} == {(None, None)}
    said = {"rank": "x", "pid": [], "world_size": "9", "step": -1, "job_id": 3, "degraded": 7, "since": "now"}
    step = {"status": 200, "base64": "cG9uZw==", "recorder": "", "elapsed_s": 0, "answered_at": 0, "identity": said}
    reader.feed(json.dumps({"worker": {"endpoint": "/s", "rank": 1, "steps": [step]}}).encode())
    assert reader.outcomes[-1].value is not None
    assert reader.outcomes[-1].identity == NOBODY


# One worker's line as torchctl 0.1.0 writes it, whose identity has no `degraded` and no `since`.
OLD_LINE = (
    b'{"worker":{"endpoint":"/run/rank3-7.sock","rank":3,"steps":[{"answered_at":1795700677.820828,"base64":"cG9uZw==",'
    b'"elapsed_s":0.002,"identity":{"job_id":"j","pid":7,"rank":3,"step":12,"world_size":8},"recorder":"",'
    b'"status":200}]}}'
)


def test_a_relay_of_an_older_version_is_understood() -> None:
    reader = Reader("n", ping)
    reader.feed(OLD_LINE)
    (outcome,) = reader.outcomes
    assert outcome.value is not None
    assert outcome.identity == outcome.value.identity == Identity(3, 7, 8, "j", 12)
    assert (outcome.value.rank, outcome.value.pid) == (3, 7)


def test_our_relay_writes_what_an_older_version_reads(folder: Path) -> None:
    head = b"Torchctl-Rank: 3\r\nTorchctl-Pid: 7\r\nTorchctl-World-Size: 8\r\nTorchctl-Job: j\r\nTorchctl-Step: 12\r\n"
    with listening(str(folder / "rank3-7.sock"), listeners.reply(b"pong", headers=head)):
        asked = [Endpoint(path=str(folder / "rank3-7.sock"), rank=3)]
        (outcome,) = ask_all(asked, recording(ping), time.monotonic() + 20)
    (line,) = Writer().lines(outcome)
    older = json.loads(OLD_LINE)["worker"]
    (step,) = older["steps"]
    step["identity"] |= {"degraded": None, "since": None}  # which it passes over
    ours = json.loads(line)["worker"]
    for name in ("answered_at", "elapsed_s"):
        step[name] = ours["steps"][0][name]
    assert ours == older | {"endpoint": str(folder / "rank3-7.sock")}


@pytest.mark.parametrize("question", [ping, sight_question("counters")], ids=["ping", "diagnose"])
def test_a_relay_passes_on_why_a_worker_cannot_answer(folder: Path, question: Question[Any]) -> None:
    head = b"Torchctl-Rank: 3\r\nTorchctl-Degraded: 1700000000.250 stopped by a signal\r\n"
    with listening(str(folder / "s"), listeners.reply(b'{"schema":"torchctl.info/1","rank":3}', headers=head)):
        (outcome,) = ask_all([Endpoint(path=str(folder / "s"))], recording(question), time.monotonic() + 20)
        (direct,) = ask_all([Endpoint(path=str(folder / "s"))], question, time.monotonic() + 20)
    reader = Reader("n", question)
    for line in Writer().lines(outcome):
        reader.feed(line.encode())
    (read,) = reader.outcomes
    assert read.identity == Identity(3, degraded="stopped by a signal", since=1_700_000_000)
    assert (read.error and read.error.detail) == (direct.error and direct.error.detail)
    assert type(read.error) is type(direct.error)


def test_a_relay_that_floods_us_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchctl.workers.hosts.relay._MAX_BYTES", 10_000)
    reader = Reader("n", ping)
    for _ in range(1000):
        reader.feed(b'{"text":"' + b"x" * 1000 + b'"}')
    assert reader.ended
    assert [one.error.kind for one in reader.outcomes if one.error] == ["too_large"]


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b'{"worker":3}',
        b'{"worker":{"endpoint":1,"rank":1,"steps":[{}]}}',
        b'{"worker":{"endpoint":"x","rank":0,"steps":[{"parts":[["a",9]]}]}}',
        b"{" * 5000,
        b'{"text":' + b"[" * 5000,
    ],
)
def test_a_hostile_relay_is_one_failure(line: bytes) -> None:
    reader = Reader("n", ping)
    reader.feed(line)
    assert all(one.error is not None for one in reader.outcomes)
