"""`torchctl nccl-trace FILE`: the real command, its whole output and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.flightrec.hostile import HOSTILE
from tests.flightrec.synthetic import BASE_NS, active, as_json, dump, entry, pickled
from torchctl.cli import cli


def run(*args: object) -> Result:
    return CliRunner().invoke(cli, ["nccl-trace", *map(str, args)])


def write(path: Path, data: bytes, written_s: int = BASE_NS // 10**9 + 62) -> Path:
    path.write_bytes(data)
    os.utime(path, (written_s, written_s))
    return path


@pytest.fixture
def stuck(tmp_path: Path) -> Path:
    return write(tmp_path / "nccl_trace_rank_3", pickled(dump([entry(1), active(2)])))


def test_the_whole_table(stuck: Path) -> None:
    result = run(stuck)
    assert result.stdout == (
        f"rank 3: {stuck}\n"
        "format 2.10, library 2.27.3, 2 entries, 1 active\n"
        "ages are measured from the newest event, 2023-11-14 22:13:22 UTC;"
        " the file was written 1m later\n"
        "\n"
        "group           pg  ranks  enqueued  started  completed  active  entries\n"
        "0 (default_pg)   0  0-3           2        -          1       1        2\n"
        "\n"
        "seq  group           operation        state      age  sizes          where\n"
        "  1  0 (default_pg)  nccl:all_reduce  completed   1s  [4, 1024] f32"
        "  /home/ada/train/trainer.py:402 reduce_gradients\n"
        "  2  0 (default_pg)  nccl:all_reduce  scheduled   0s  [4, 1024] f32"
        "  /home/ada/train/trainer.py:402 reduce_gradients\n"
    )
    assert (result.stderr, result.exit_code) == ("", 0)


def test_file_may_be_an_option_and_json_dumps_read_too(tmp_path: Path) -> None:
    path = write(tmp_path / "rank_1.json", as_json(dump([active(1)])))
    assert run("--file", path).stdout == run(path).stdout
    assert "scheduled" in run(path).stdout and "where" not in run(path).stdout


def test_json_is_one_stable_object(stuck: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "nccl_trace_rank_0", pickled(dump([active(1)])))
    result = run("--json", stuck, other)
    made = json.loads(result.stdout)
    assert result.stdout == json.dumps(made, sort_keys=True) + "\n" == run("--json", other, stuck).stdout
    assert made["schema"] == "torchctl.nccl-trace/1"
    assert [one["rank"] for one in made["dumps"]] == [0, 3]
    assert made["failed"] == []
    two = made["dumps"][1]
    assert (two["entries_total"], two["entries_active"], two["entries_left_out"]) == (2, 1, 0)
    assert two["entries"][1]["active"] is True
    assert two["entries"][1]["user_frame"]["line"] == 402
    assert two["process_groups"][0]["enqueued"] == 2
    assert two["age_reference"] == "newest_event"


def test_json_leaves_out_what_was_not_asked_for(stuck: Path) -> None:
    made = json.loads(run("--json", "--no-stacktraces", "--only-active", stuck).stdout)["dumps"][0]
    assert [one["collective_seq_id"] for one in made["entries"]] == [2]
    assert "frames" not in made["entries"][0]
    bare = json.loads(run("--format", "json", "--no-collectives", stuck).stdout)["dumps"][0]
    assert (bare["entries"], bare["entries_left_out"]) == ([], 2)


def test_rows_left_out_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "trace_0", pickled(dump([entry(seq) for seq in range(1, 101)])))
    assert run(path).stdout.endswith("\n80 of 100 entries not shown; --last 0 shows all\n")
    assert "not shown" not in run("--last", 0, path).stdout
    assert len(run("--last", 0, path).stdout.splitlines()) == 108
    assert run("--only-active", path).stdout.endswith("\nno active entries\n")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_or_foreign_file_fails_with_one_sentence(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "trace_0", HOSTILE[name][0])
    result = run(path)
    assert (result.stdout, result.exit_code) == ("", 1)
    assert result.stderr.startswith(f"torchctl: {path} ")
    assert len(result.stderr.splitlines()) == 1


def test_good_files_are_shown_beside_bad_ones_with_exit_code_3(stuck: Path, tmp_path: Path) -> None:
    bad = write(tmp_path / "trace_7", b"hello")
    result = run(bad, stuck, tmp_path / "absent")
    assert result.exit_code == 3
    assert result.stdout == run(stuck).stdout
    assert result.stderr.splitlines() == [
        f"torchctl: {bad} is not a flight-recorder dump: it is neither a pickle nor a JSON object",
        f"torchctl: {tmp_path / 'absent'} does not exist",
        "  check the path",
    ]
    failed = json.loads(run("--json", bad, stuck).stdout)["failed"]
    assert [(one["rank"], one["source"], one["kind"]) for one in failed] == [(7, str(bad), "bad_dump")]


def test_a_folder_alone_shows_all_its_dumps_by_rank(tmp_path: Path) -> None:
    """Eleven, so that the order of names is not that of ranks; notes, stacks and scripts beside them are no dumps."""
    for rank in range(11):
        write(tmp_path / f"node{rank % 2}_trace_{rank}", pickled(dump([entry(1), active(rank + 2)])))
    for name in ("traceback_rank_3.txt", "train.py", "notes.json"):
        write(tmp_path / name, b"{}")
    result = run(tmp_path)
    assert (result.exit_code, result.stderr) == (0, "")
    headings = [line for line in result.stdout.splitlines() if line.startswith("rank ")]
    assert headings == [f"rank {rank}: {tmp_path}/node{rank % 2}_trace_{rank}" for rank in range(11)]
    alone = run(tmp_path / "node1_trace_3")
    assert alone.stdout.strip() in result.stdout
    shown = json.loads(run("--json", tmp_path).stdout)
    assert [one["rank"] for one in shown["dumps"]] == list(range(11))


def test_in_a_folder_the_number_in_which_names_differ_is_the_rank(tmp_path: Path) -> None:
    for rank in (1, 0, 2):
        write(tmp_path / f"job7.dump.{rank}", pickled(dump([entry(1)])))
    assert [line.split(":")[0] for line in run(tmp_path).stdout.splitlines() if line.startswith("rank")] == [
        "rank 0",
        "rank 1",
        "rank 2",
    ]


def test_a_folder_with_a_broken_dump_shows_the_others_and_exits_with_3(tmp_path: Path) -> None:
    write(tmp_path / "trace_0", pickled(dump([entry(1)])))
    write(tmp_path / "trace_1", pickled(dump([entry(1)]))[:99])
    result = run(tmp_path)
    assert (result.exit_code, "rank 0: " in result.stdout) == (3, True)
    assert "trace_1 is cut short" in result.stderr


def test_a_folder_without_a_dump_is_an_error(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"no flight-recorder dump in {tmp_path}" in result.stderr


def test_when_all_files_are_bad_the_code_is_theirs(tmp_path: Path) -> None:
    bad = write(tmp_path / "trace_7", b"hello")
    assert run(bad, tmp_path / "absent").exit_code == 1


def test_a_group_that_no_dump_has_is_an_error_that_names_the_groups(stuck: Path) -> None:
    result = run("--group", "dp", stuck)
    assert (result.stdout, result.exit_code) == ("", 1)
    assert result.stderr == ("torchctl: no dump has a process group named dp\n  the groups are: 0, default_pg\n")
    assert run("--group", "default_pg", stuck).exit_code == 0


def test_output_keeps_the_raw_bytes_even_of_what_cannot_be_read(stuck: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    result = run("--output", saved, stuck)
    assert saved.read_bytes() == stuck.read_bytes()
    assert result.stdout == run(stuck).stdout
    assert result.stderr == f"torchctl: saved {stuck.stat().st_size} bytes from {stuck} to {saved}\n"
    bad = write(tmp_path / "trace_7", b"hello")
    assert run("--output", saved, bad).exit_code == 1
    assert saved.read_bytes() == b"hello"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nccl_trace_rank_3", "saved", "trace_7"]


def test_output_of_several_dumps_is_a_file_per_rank(stuck: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    same = write(tmp_path / "other" / "nccl_trace_rank_3", b"hello")
    nameless = write(tmp_path / "dump", b"there")
    assert run("--output", tmp_path / "saved", stuck, same, nameless).exit_code == 3
    assert (tmp_path / "saved.rank3").read_bytes() == stuck.read_bytes()
    assert (tmp_path / "saved.rank3.1").read_bytes() == b"hello"
    assert (tmp_path / "saved.dump2").read_bytes() == b"there"


@pytest.mark.parametrize("kind", ["folder", "absent folder", "pipe"])
def test_an_output_that_cannot_be_replaced_is_refused(kind: str, stuck: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    if kind == "folder":
        target.mkdir()
    elif kind == "pipe":
        os.mkfifo(target)
    else:
        target = tmp_path / "no" / "out"
    result = run("--output", target, stuck)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"torchctl: {target} ")


@pytest.mark.parametrize(
    "args", [["--last", "-1", "x"], ["--last", "x", "y"], ["--nonsense"], ["--socket", "s", "f"], ["--ranks", "0", "f"]]
)
def test_wrong_usage_exits_with_2(args: list[str]) -> None:
    assert run(*args).exit_code == 2


def test_the_process_imports_neither_torch_nor_urllib3(stuck: Path) -> None:
    code = (
        "import sys; from torchctl.cli import cli\n"
        "try: cli(sys.argv[1:])\n"
        "except SystemExit: print(sorted({'torch', 'urllib3', 'numpy', 'rich', 'pickle'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, "nccl-trace", str(stuck)]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert shown.stdout.splitlines()[-1] == "[]"
    assert shown.stderr == ""


WITHOUT_NUMPY = "import sys; sys.modules['numpy'] = None; from torchctl.cli import cli; cli(sys.argv[1:])"


@pytest.mark.parametrize("form", [[], ["--json", "--last", "0"]], ids=["screen", "json"])
def test_a_folder_is_printed_as_its_files_are_by_rank_and_needs_no_numpy(tmp_path: Path, form: list[str]) -> None:
    write(tmp_path / "rank_0.json", as_json(dump([entry(1), active(2, timeout_ms=None)])))
    write(tmp_path / "rank_1", pickled(dump([entry(7, record_id=90), active(8, state="started", thread_name="t")])))
    write(tmp_path / "rank_2", pickled(dump([], pg_status={"3": {"last_enqueued_collective": 9}}, ncclx_state={})))
    write(tmp_path / "rank_3", pickled(dump([active(1, profiling_name="gloo:barrier", retired=True)])))
    write(tmp_path / "rank_4", pickled(dump([entry(1)]))[:50])
    write(tmp_path / "whose", pickled(dump([entry(1, duration_ms=2.5), entry(1, pg_id=1, process_group=("1", "tp"))])))
    folder, files = run(*form, tmp_path), run(*form, *sorted(tmp_path.iterdir()))
    assert folder.exit_code == 3
    assert (folder.stdout, folder.stderr) == (files.stdout, files.stderr)
    command = [sys.executable, "-c", WITHOUT_NUMPY, "nccl-trace", *form, str(tmp_path)]
    bare = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (bare.returncode, bare.stdout, bare.stderr) == (3, folder.stdout, folder.stderr)
