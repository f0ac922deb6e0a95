"""`torchctl diagnose DIR`: the real command on files, its screen, its JSON and its exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.flightrec.synthetic import BASE_NS, active, as_json, dump, entry, pickled
from tests.processes import running
from torchctl.cli import cli

PYSPY = """\
Process 321: python train.py
Python v3.11.7 (/opt/bin/python3.11)

Thread 321 (idle): "MainThread"
    get (queue.py:171)
    next_batch (/home/ada/load.py:19)
    <module> (/home/ada/train.py:40)
Thread 330 (idle): "pin"
    run (/home/ada/load.py:3)
"""


def run(*args: object) -> Result:
    return CliRunner().invoke(cli, ["diagnose", *map(str, args)])


def verdict(*args: object) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(run("--json", *args).stdout)
    return document


@pytest.fixture
def hung(tmp_path: Path) -> Path:
    """Rank 2 has not entered the second all_reduce; one dump is JSON."""
    for rank in range(4):
        rows = [entry(1)] if rank == 2 else [entry(1), active(2, state="started")]
        (tmp_path / f"nccl_trace_rank_{rank}").write_bytes((as_json if rank == 1 else pickled)(dump(rows)))
    return tmp_path


def test_the_whole_screen(hung: Path) -> None:
    result = run(hung)
    assert result.stdout == (
        "rank 2 never entered all_reduce (sequence id 2 of group 0 (default_pg)); ranks 0-1,3 wait for it.\n"
        "\n"
        "1. not_entered (likely)\n"
        "   waiting   all_reduce, sequence id 2, group 0 (default_pg), since 2023-11-14 22:13:22 UTC\n"
        "   who waits 0-1,3 (3 ranks)\n"
        "   evidence  rank 2: the last sequence id of group 0 (default_pg) is 1, the others are in 2\n"
        "   evidence  rank 2 was last seen launching all_reduce at /home/ada/train/trainer.py:402 (reduce_gradients)\n"
        "\n"
        "ranks seen: 0-3 (4 of 4)\n"
        f"next: `torchctl nccl-trace {hung}/nccl_trace_rank_2`\n"
    )
    assert (result.stderr, result.exit_code) == ("", 6)


def test_the_json_has_exactly_the_fields_of_its_schema(hung: Path) -> None:
    found = verdict(hung)
    assert sorted(found) == ["failures", "findings", "healthy", "processes", "ranks", "schema", "verdict"]
    assert (found["schema"], found["healthy"]) == ("torchctl.diagnosis/1", False)
    assert found["ranks"] == {"world_size": 4, "seen": [0, 1, 2, 3], "missing": [], "failed": {}}
    (finding,) = found["findings"]
    evidence = finding.pop("evidence")
    assert len(evidence) == 2
    assert finding == {
        "kind": "not_entered",
        "confidence": "likely",
        "summary": "rank 2 never entered all_reduce (sequence id 2 of group 0 (default_pg)); ranks 0-1,3 wait for it",
        "culprit_ranks": [2],
        "waiting_ranks": [0, 1, 3],
        "culprit_processes": [],
        "waiting_processes": [],
        "process_group": {"name": "0", "desc": "default_pg", "ranks": [0, 1, 2, 3]},
        "collective": {
            "op": "all_reduce",
            "seq_id": 2,
            "is_p2p": False,
            "input_sizes": [[4, 1024]],
            "output_sizes": [[4, 1024]],
            "dtype": "Float",
        },
        "location": None,
        "caused_by": None,
    }


@pytest.mark.parametrize("form", ["faulthandler", "py-spy", "py-spy json", "torchctl"])
def test_stacks_beside_the_dumps_say_where_the_rank_is(form: str, hung: Path) -> None:
    frames = [("get", "/opt/lib/python3.11/queue.py", 171), ("next_batch", "/home/ada/load.py", 19)]
    if form == "faulthandler":
        lines = [f'  File "{file}", line {line} in {name}' for name, file, line in frames]
        text = "\n".join(["Thread 0x00007f0000000001 (most recent call first):", *lines]) + "\n"
        (hung / "traceback_rank_2.txt").write_text(text)
    elif form == "py-spy":
        (hung / "pyspy_rank_2.txt").write_text(PYSPY)
    elif form == "py-spy json":
        made = [{"filename": file, "name": name, "line": line} for name, file, line in frames]
        thread = {"pid": 321, "thread_id": 321, "thread_name": "MainThread", "frames": made}
        (hung / "stacks_rank_2.json").write_text(json.dumps([thread]))
    else:
        made = [{"file": file, "function": name, "line": line} for name, file, line in frames]
        thread = {"id": 1, "name": "MainThread", "main": True, "complete": True, "frames": made}
        (hung / "stacks_rank_2.json").write_text(json.dumps({"schema": "torchctl.stacks/1", "threads": [thread]}))
    (finding,) = verdict(hung)["findings"]
    assert finding["culprit_ranks"] == [2]
    at = {"file": "/home/ada/load.py", "line": 19, "function": "next_batch"}
    assert finding["location"] == {"rank": 2, "process": None, **at}


def test_files_of_an_earlier_run_are_left_aside_and_said_to_be(hung: Path) -> None:
    config = {"0": {"name": "0", "desc": "default_pg", "ranks": str(list(range(20)))}}
    before = {"time_created_ns": BASE_NS - 10**15, "time_discovered_completed_ns": None}
    for rank in range(4, 20):
        (hung / f"nccl_trace_rank_{rank}").write_bytes(pickled(dump([active(1, **before)], pg_config=config)))
    result = run(hung)
    assert result.stdout.startswith("rank 2 never entered all_reduce ")
    assert result.stderr.splitlines()[0] == (
        f"torchctl: {hung}/nccl_trace_rank_10 is ignored: it is from another run, with 20 ranks"
    )
    assert result.stderr.splitlines()[8:] == ["torchctl: and 8 more dumps are ignored"]


WAITS = """\
import queue
def next_batch():
    print("up", flush=True)
    queue.Queue().get()
next_batch()
"""


@pytest.mark.parametrize("options", [[], ["--json"], ["--nonblocking"]])
def test_what_py_spy_really_prints_says_where_the_rank_is(
    options: list[str], hung: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    program = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if program is None:
        pytest.skip("py-spy is not installed")
    script = tmp_path_factory.mktemp("job") / "load.py"
    script.write_text(WAITS)
    with running([sys.executable, str(script)]) as process:
        process.wait_for("up")
        command = [program, "dump", "--pid", str(process.pid), *options]
        deadline = time.monotonic() + 60
        while True:  # it says "up" a moment before it waits
            dumped = subprocess.run(command, capture_output=True, timeout=60, check=False)
            if b"ermission" in dumped.stderr:
                pytest.skip("py-spy may not read processes here")
            if b"get" in dumped.stdout:
                break
            assert time.monotonic() < deadline, dumped
    (hung / ("stacks_rank_2.json" if options == ["--json"] else "stacks_rank_2.txt")).write_bytes(dumped.stdout)
    (finding,) = verdict(hung)["findings"]
    assert finding["culprit_ranks"] == [2]
    assert (finding["location"]["file"].endswith("load.py"), finding["location"]["function"]) == (True, "next_batch")
    assert (finding["location"]["rank"], finding["location"]["line"]) == (2, 4)


def test_a_healthy_job_exits_with_0(tmp_path: Path) -> None:
    for rank in range(4):
        (tmp_path / f"trace_{rank}").write_bytes(pickled(dump([entry(1)])))
    result = run(tmp_path)
    assert result.exit_code == 0
    assert result.stdout.startswith("Nothing is wrong: no rank waits for another.\n")


def test_what_cannot_be_told_exits_with_1_and_says_what_is_missing(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert result.exit_code == 1
    assert result.stdout.startswith("Cannot tell: there is no dump and no stack from any rank.\n")
    assert verdict(tmp_path)["healthy"] is None


def test_a_broken_dump_is_a_rank_lost_and_a_bad_file(hung: Path) -> None:
    path = hung / "nccl_trace_rank_2"
    path.write_bytes(path.read_bytes()[:50])
    found = verdict(hung)
    assert [(one["kind"], one["culprit_ranks"], one["caused_by"]) for one in found["findings"]] == [
        ("rank_lost", [2], None),
        ("bad_file", [2], 0),
    ]
    assert "cut short" in found["ranks"]["failed"]["2"]


def test_a_rank_is_taken_from_where_the_operator_says(tmp_path: Path) -> None:
    for rank in range(4):
        rows = [entry(1)] if rank == 2 else [entry(1), active(2, state="started")]
        (tmp_path / f"node{rank // 2}gpu{rank}.pkl").write_bytes(pickled(dump(rows)))
    asked = verdict(tmp_path)
    assert asked["ranks"]["seen"] == []
    assert verdict("--rank-from", r"gpu(\d)", tmp_path)["findings"][0]["culprit_ranks"] == [2]


@pytest.mark.parametrize(
    "args",
    [
        ["--socket", "s", "x"],
        ["--watch", "x"],
        ["--save", "d", "x"],
        ["--rank-from", "x"],
        ["--ranks", "0", "x"],
        ["--ranks", "0"],
    ],
)
def test_options_for_workers_and_for_files_do_not_mix(args: list[str]) -> None:
    assert run(*args).exit_code == 2


def test_control_characters_of_a_dump_stay_off_the_terminal(tmp_path: Path) -> None:
    for rank in range(2):
        rows = [] if rank else [active(1, state="started", process_group=("\x1b[31m", ""))]
        config = {"\x1b[31m": {"name": "\x1b[31m", "desc": "", "ranks": "[0, 1]"}}
        (tmp_path / f"trace_{rank}").write_bytes(pickled(dump(rows, pg_config=config)))
    result = run(tmp_path)
    assert "\x1b" not in result.stdout
    assert "group \\x1b[31m" in result.stdout


def test_the_process_imports_neither_torch_nor_urllib3(hung: Path) -> None:
    code = (
        "import sys; from torchctl.cli import cli\n"
        "try: cli(sys.argv[1:])\n"
        "except SystemExit: print(sorted({'torch', 'urllib3', 'pickle'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, "diagnose", "--json", str(hung)]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert shown.stdout.splitlines()[-1] in ("[]", "['pickle']")
