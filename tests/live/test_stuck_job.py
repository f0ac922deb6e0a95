"""A real 4-rank torchrun job (gloo) of which one rank is stuck, asked from outside."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests import guide
from tests.demo.job import torchrun_job
from tests.folders import short_folder
from torchctl.cli import cli

pytestmark = [pytest.mark.torch, pytest.mark.timeout(300)]

PATIENT = ("--timeout", "60")  # the first dump with stacks resolves symbols: a second, and more beside other tests


@pytest.fixture(scope="module")
def job() -> Iterator[Path]:
    """Return the runtime folder of a job that hangs."""
    from tests.demo import run, train

    with short_folder() as folder, pytest.MonkeyPatch.context() as patch:
        runtime_dir = folder / "run"
        patch.setenv("TORCHCTL_RUNTIME_DIR", str(runtime_dir))
        with torchrun_job(Path(train.__file__), run.RANKS, runtime_dir):
            run.wait_for_hang()
            yield runtime_dir


@pytest.fixture(autouse=True)
def look_there(job: Path, own_environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHCTL_RUNTIME_DIR", str(job))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="torchctl")


def ask(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, *PATIENT, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    assert isinstance(document, dict)
    return document


def test_ps_knows_every_rank_of_the_job() -> None:
    workers = ask("ps")["workers"]
    assert [worker["rank"] for worker in workers] == [0, 1, 2, 3]
    assert {worker["world_size"] for worker in workers} == {4}
    assert {worker["step"] for worker in workers} == {3}
    assert len({worker["job_id"] for worker in workers}) == 1
    assert len({worker["pid"] for worker in workers}) == 4


def test_everybody_answers_a_ping() -> None:
    result = run("ping", "--ranks", "0-3")
    assert (result.stdout.count("pong"), result.exit_code) == (4, 0)


def test_the_stuck_rank_stands_on_another_line_than_the_others() -> None:
    lines = {}
    for worker in ask("traceback")["workers"]:
        [main] = [thread for thread in worker["threads"] if thread["main"]]
        lines[worker["rank"]] = main["frames"][main["users_frame"]]["function"]
    assert lines == {0: "train_step", 1: "train_step", 2: "next_batch", 3: "train_step"}
    shown = run("traceback", "--ranks", "2").stdout
    assert "in next_batch\n          return batches.get()\n" in shown


def test_the_others_have_an_active_collective_that_the_stuck_rank_never_entered() -> None:
    active = {}
    for dump in ask("nccl-trace")["dumps"]:
        entries = [entry for entry in dump["entries"] if entry["active"]]
        active[dump["rank"]] = [(entry["profiling_name"], entry["collective_seq_id"]) for entry in entries]
        assert all(entry["user_frame"]["name"] == "train_step" for entry in entries)
    assert active == {rank: [] if rank == 2 else [("gloo:all_reduce", 4)] for rank in range(4)}


def test_parts_of_the_trace_can_be_left_out() -> None:
    result = run("nccl-trace", *PATIENT, "--ranks", "0", "--only-active", "--no-stacktraces")
    assert result.exit_code == 0
    assert "gloo:all_reduce" in result.stdout
    assert "train_step" not in result.stdout
    assert "retired" not in result.stdout
    assert "gloo:all_reduce" not in run("nccl-trace", *PATIENT, "--ranks", "0", "--no-collectives").stdout


def test_a_dump_can_be_saved_and_read_back(folder: Path) -> None:
    saved = folder / "trace_0"
    live = run("nccl-trace", *PATIENT, "--ranks", "0", "--output", str(saved))
    assert live.exit_code == 0
    assert "gloo:all_reduce" in run("nccl-trace", str(saved)).stdout


def test_a_rank_that_does_not_exist_is_named_missing() -> None:
    result = run("nccl-trace", *PATIENT, "--ranks", "0,9", "--json")
    assert result.exit_code == 3
    assert "rank 9: no worker found" in result.stderr
    assert [dump["rank"] for dump in json.loads(result.stdout)["dumps"]] == [0]


@pytest.mark.parametrize(
    ("page", "command"),
    [
        ("README.md", "torchctl diagnose"),
        ("README.md", "torchctl traceback"),
        ("torchctl/guide/workers.md", "torchctl ps"),
        ("torchctl/guide/workers.md", "torchctl ping"),
        ("torchctl/guide/workers.md", "torchctl ping --ranks 2,9"),
        ("torchctl/guide/stacks.md", "torchctl traceback --ranks 2"),
        ("torchctl/guide/traces.md", "torchctl nccl-trace --ranks 0 --last 3"),
        ("torchctl/guide/handlers.md", "torchctl handlers"),
        ("torchctl/guide/handlers.md", "torchctl call ping --ranks 0-1"),
        ("torchctl/guide/handlers.md", "torchctl call nope --ranks 0"),
    ],
)
def test_readme_and_guide_show_what_the_commands_print(
    page: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    result = run(*guide.words(command), "--timeout", "60")  # a busy machine may need more than the default
    assert guide.likened(result.output) == guide.likened(guide.screen(guide.PAGES[page], command))
