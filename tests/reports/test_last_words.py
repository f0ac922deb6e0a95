"""`torchctl diagnose`, `ps` and `collect` after the death of a job, with real processes under torchctl.server."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.processes import Process, running
from tests.sentinels import eventually
from torchctl.cli import cli
from torchctl.process.lastword import LastWord, write

pytestmark = pytest.mark.usefixtures("with_sentinel")

# A rank prints "ready" once it has a sentinel, and then does what it is told.
SCRIPT = """
import os, sys, time
from torchctl.server import report_step
from torchctl.server.guest.sharing import sentinel_pid

def load(text):
    raise ValueError(text)

report_step(1203)
while sentinel_pid() is None:
    time.sleep(0.01)
print("ready", flush=True)
exec(sys.stdin.readline())
"""
RAISE = "load('no rows left in shard 7')"
LOSE = "raise RuntimeError('[pair.cc:534] Connection closed by peer [127.0.0.1]:5134')"
KILL = f"os.kill(os.getpid(), {int(signal.SIGKILL)}); time.sleep(60)"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="torchctl")


@contextlib.contextmanager
def ranks(folder: Path, count: int, job: str = "llama", **more: str) -> Iterator[list[Process]]:
    """Run the ranks of a job that wait for what they are told."""
    script = folder / "train.py"
    script.write_text(SCRIPT)
    with contextlib.ExitStack() as stack:
        started = []
        for rank in range(count):
            settings = {"RANK": str(rank), "WORLD_SIZE": str(count), "TORCHCTL_JOB_ID": job, **more}
            command = [sys.executable, "-m", "torchctl.server", str(script)]
            started.append(stack.enter_context(running(command, settings)))
        for one in started:
            one.wait_for("ready")
        yield started


def words(folder: Path) -> int:
    return len([*folder.glob("*.died"), *folder.glob("*.ended")])


def die(runtime: Path, process: Process, how: str) -> int:
    """Let a rank end, and wait for its last word; return its exit code."""
    before = words(runtime)
    process.tell(how)
    code = process.finish()[0]
    eventually(lambda: words(runtime) > before)
    return code


@pytest.mark.parametrize(
    ("how", "code", "kind", "says"),
    [
        (RAISE, 1, "failed", "rank 1 failed first: uncaught ValueError: no rows left in shard 7 ({script}:7)"),
        (KILL, -9, "killed", "rank 1 was killed first: SIGKILL"),
        ("sys.exit(3)", 3, "failed", "rank 1 failed first: exit code 3 (<string>:1)"),
        ("sys.exit(0)", 0, "rank_lost", "rank 1 ended with exit code 0 while others still needed it"),
        ("pass", 0, "rank_lost", "rank 1 ended with exit code 0 while others still needed it"),
    ],
)
def test_who_went_first_and_of_what(
    folder: Path, own_environment: Path, how: str, code: int, kind: str, says: str
) -> None:
    with ranks(folder, 3) as (first, second, third):
        assert die(own_environment, second, how) == code
        time.sleep(0.15)  # beyond what a sentinel may notice late
        assert die(own_environment, third, LOSE) == 1
        assert die(own_environment, first, LOSE) == 1
    result = run("diagnose")
    assert result.exit_code == 6, result.output
    assert result.stdout.startswith(says.format(script=folder / "train.py"))
    assert "ranks 0,2 followed" in result.stdout.splitlines()[0]
    assert "torchctl: no worker answers: this is the end of job llama, " in result.stderr
    document = json.loads(run("diagnose", "--json").stdout)
    (finding,) = document["findings"]
    assert (finding["kind"], finding["culprit_ranks"], finding["waiting_ranks"]) == (kind, [1], [0, 2])
    assert (document["healthy"], document["ranks"]["seen"], document["ranks"]["missing"]) == (False, [0, 1, 2], [])
    listed = [line.partition(",")[0] for line in run("ps").stdout.splitlines()]
    assert listed == ["rank 1", "rank 2", "rank 0"]


def test_an_exception_is_shown_with_its_line_and_the_next_step(folder: Path, own_environment: Path) -> None:
    with ranks(folder, 2) as (first, second):
        die(own_environment, second, RAISE)
        die(own_environment, first, LOSE)
    shown = run("diagnose").stdout
    assert f"   where     rank 1: {folder}/train.py:7 in load\n               raise ValueError(text)\n" in shown
    assert "   victims   0 (1 rank)\n" in shown
    assert ", step 1203\n" in shown
    assert f"next: the log of rank 1, {os.uname().nodename}, pid {second.pid}\n" in shown


def test_what_collect_and_save_keep_gives_the_same_verdict(folder: Path, own_environment: Path) -> None:
    with ranks(folder, 2) as (first, second):
        die(own_environment, second, RAISE)
        die(own_environment, first, LOSE)
    live = run("diagnose", "--save", str(folder / "saved"))
    collected = run("collect", str(folder / "kept"))
    assert (collected.exit_code, collected.stdout) == (3, "last words of 2 workers that ended\n")
    for kept in ("saved", "kept"):
        again = run("diagnose", str(folder / kept))
        assert (again.exit_code, again.stdout) == (6, live.stdout), again.output
    assert run("traceback", str(folder / "kept")).exit_code == 1
    document = json.loads(run("collect", "--json", str(folder / "kept")).stdout)
    assert (document["last_words"], document["error"]["kind"]) == (2, "no_workers")


def test_a_job_that_simply_finished_is_neither_listed_nor_diagnosed(folder: Path, own_environment: Path) -> None:
    with ranks(folder, 2) as processes:
        assert [die(own_environment, one, "pass") for one in processes] == [0, 0]
    assert len(list(own_environment.glob("*.ended"))) == 2
    assert (run("ps").stdout, run("ps").exit_code) == ("", 3)
    assert (run("diagnose").stdout, run("diagnose").exit_code) == ("", 3)


def test_while_a_rank_lives_an_orderly_end_is_listed(folder: Path, own_environment: Path) -> None:
    with ranks(folder, 2) as (first, second):
        die(own_environment, second, "pass")
        shown = run("ps")
        assert f"rank 1, pid {second.pid}: ended " in shown.stdout and shown.exit_code == 0
        assert run("diagnose", "--interval", "0.1").exit_code != 6  # no rank needs it
        assert die(own_environment, first, "pass") == 0
    assert run("ps").stdout == ""


def test_while_others_live_the_dead_rank_is_lost_and_its_line_shown(folder: Path, own_environment: Path) -> None:
    with ranks(folder, 3) as processes:
        die(own_environment, processes[1], RAISE)
        die(own_environment, processes[2], LOSE)
        result = run("diagnose", "--interval", "0.1", "--timeout", "20", "--save", str(folder / "saved"))
        again = run("diagnose", str(folder / "saved"))
    assert result.exit_code == 6, result.output
    assert "rank 1 failed first: uncaught ValueError: no rows left in shard 7" in result.stdout
    assert f"where     rank 1: {folder}/train.py:7 in load" in result.stdout
    assert again.stdout.splitlines()[0] == result.stdout.splitlines()[0]


def test_an_earlier_attempt_and_other_jobs_are_said_and_not_mixed(folder: Path, own_environment: Path) -> None:
    with ranks(folder, 2, "other") as processes:
        die(own_environment, processes[0], KILL)
    with ranks(folder, 2, TORCHELASTIC_RESTART_COUNT="0") as (first, second):
        die(own_environment, first, RAISE)
        die(own_environment, second, LOSE)
    with ranks(folder, 2, TORCHELASTIC_RESTART_COUNT="1") as (first, second):
        die(own_environment, second, RAISE)
        die(own_environment, first, LOSE)
    result = run("diagnose")
    assert result.stdout.startswith("rank 1 failed first: ")
    assert "torchctl: ignored: last words of 1 other job (other)\n" in result.stderr
    assert "torchctl: ignored: last words of an earlier attempt at this job\n" in result.stderr
    assert "other" not in run("diagnose", "--job", "llama").stderr
    assert "SIGKILL" in run("diagnose", "--job", "other").stdout.splitlines()[0]


def test_files_of_older_versions_are_read(own_environment: Path) -> None:
    own_environment.mkdir(mode=0o700)
    now = time.time()
    known: dict[str, object] = {"schema": "torchctl.last-word/1", "world_size": 2, "job_id": "old", "host": "vm"}
    deaths: Sequence[tuple[int, str, float]] = ((0, "uncaught RuntimeError", 60.0), (1, "SIGKILL", 63.0))
    for rank, cause, ago in deaths:
        document = {**known, "rank": rank, "cause": cause, "died": now - ago, "pid": 999_000 + rank, "step": 7}
        document |= {"note": "", "endpoint": f"/x/rank{rank}.sock"}
        (own_environment / f"{999_000 + rank}-{int(now * 1000)}.died").write_text(json.dumps(document))
    result = run("diagnose")
    assert result.stdout.startswith("rank 1 was killed first: SIGKILL; rank 0 followed.\n")
    assert [line.partition(",")[0] for line in run("ps").stdout.splitlines()] == ["rank 1", "rank 0"]


def test_ps_forget_removes_both_kinds(own_environment: Path) -> None:
    for orderly in (False, True):
        cause = "exit code 0" if orderly else "SIGKILL"
        write(str(own_environment), LastWord(999_001, time.time(), cause, 0, 2, "job", orderly=orderly))
    assert words(own_environment) == 2
    run("ps", "--forget")
    assert words(own_environment) == 0


def test_where_workers_are_named_the_last_words_of_this_host_say_nothing(folder: Path, own_environment: Path) -> None:
    write(str(own_environment), LastWord(999_001, time.time(), "SIGKILL", 0, 2, "job"))
    result = run("diagnose", "--socket", str(folder / "none"))
    assert (result.exit_code, result.stdout) == (3, "")


def test_a_file_that_states_anything_is_read_within_bounds(folder: Path) -> None:
    kept = folder / "kept"
    kept.mkdir()
    big = 1 << 62
    document = {"schema": "torchctl.last-word/1", "died": 1.7e9, "pid": 1, "rank": big, "world_size": big}
    document |= {
        "cause": "x" * 9000,
        "frames": [["a.py", 1, "f"], [1], "x"],
        "handled": [["a", 1], 3],
        "host": "\x1b[31m",
    }
    (kept / "1-1.died").write_text(json.dumps(document))
    (kept / "2-2.died").write_text("{")
    result = run("diagnose", str(kept))
    assert result.exit_code == 6 and "\x1b" not in result.output and len(result.stdout) < 4000
    assert f"{kept}/2-2.died is not a last word" in result.stderr


def test_a_thousand_dead_are_one_screen(own_environment: Path) -> None:
    now = time.time() - 60
    for rank in range(1000):
        cause = {"exception": "ValueError", "cause": "uncaught ValueError", "witness": "worker", "started": now - 9}
        word = LastWord(900_000 + rank, now + rank / 1e6, rank=rank, world_size=1000, job_id="big", host="vm", **cause)  # type: ignore[arg-type]
        write(str(own_environment), word)
    result = run("diagnose")
    assert result.stdout.startswith("ranks 0-999 failed together: uncaught ValueError.\n")
    assert len(result.stdout.splitlines()) < 25
