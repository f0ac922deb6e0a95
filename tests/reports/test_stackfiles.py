"""Files of stacks: which there are in a folder, whose each is, and what is wrong with one."""

import json
from pathlib import Path

import pytest

from tests.stacks.test_reader import PYSPY
from tests.stacks.texts import STUCK, WAITING, dump
from torchctl.errors import TorchctlError
from torchctl.manifest import Answer, Entry, FolderWriter, Manifest
from torchctl.reports.stackfiles import StackFile, StackFiles, names_of, read_stack_files
from torchctl.stacks.reader import StackReader


def read(path: Path) -> StackFiles:
    return read_stack_files([str(path)], StackReader())


def ranks(path: Path) -> dict[str, int | None]:
    return {Path(one.path).name: one.rank for one in read(path).found}


def at(file: StackFile) -> str:
    """Return the innermost function of a process's main thread."""
    assert file.stacks is not None
    assert file.stacks.main is not None
    return file.stacks.main.frames[0].function


def pyspy(pid: int, function: str, *, local_rank: int | None = None, ident: int | None = None) -> str:
    """Return what py-spy prints of a process that stands in a function."""
    option = "" if local_rank is None else f" --local_rank={local_rank}"
    return (
        f"Process {pid}: /opt/bin/python -u train.py{option}\nPython v3.11.9 (/opt/bin/python3.11)\n\n"
        f'Thread {ident or pid} (active): "MainThread"\n    {function} (train.py:7)\n    <module> (train.py:40)\n'
    )


def test_a_folders_files_by_rank_and_what_is_wrong_with_one(tmp_path: Path) -> None:
    (tmp_path / "traceback_rank_10.txt").write_bytes(dump(10, WAITING))
    (tmp_path / "traceback_rank_2.txt").write_bytes(dump(2, STUCK))
    (tmp_path / "node7_pyspy_rank3.txt").write_text(PYSPY)
    (tmp_path / "traceback_rank_4.txt").write_text("nothing")
    (tmp_path / "traceback_rank_5.txt").write_bytes(b"")
    (tmp_path / "nccl_trace_rank_2").write_bytes(b"other")
    files = read(tmp_path)
    assert [(one.rank, one.stacks is not None, one.reason) for one in files.found] == [
        (2, True, ""),
        (3, True, ""),
        (4, False, "has no stacks: it holds no thread's stack, but 'nothing'"),
        (5, False, "has no stacks: it is empty"),
        (10, True, ""),
    ]
    assert files.notes == [
        f"{tmp_path}/node7_pyspy_rank3.txt: ignored, since these are not ranks: a child of process 4711 (pid 4800)"
    ]


def test_no_file_of_stacks_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(TorchctlError):
            read(path)


def test_the_manifest_knows_a_rank_better_than_the_name(tmp_path: Path) -> None:
    writer = FolderWriter(str(tmp_path))
    one = Entry("/run/a.sock", 2)
    writer.write(one, "traceback", Answer(dump(2, STUCK), 0.0))
    (tmp_path / "traceback_rank_2.txt").rename(tmp_path / "traceback_rank_9.txt")
    one.files["traceback"] = "traceback_rank_9.txt"
    writer.finish(Manifest([one]))
    (tmp_path / "traceback_rank_3.txt").write_bytes(dump(3, WAITING))
    assert ranks(tmp_path) == {"traceback_rank_9.txt": 2, "traceback_rank_3.txt": 3}
    assert ranks(tmp_path / "traceback_rank_9.txt") == {"traceback_rank_9.txt": 2}
    manifest = json.loads((tmp_path / "collect.json").read_text())
    manifest["workers"][0]["rank"] = None
    (tmp_path / "collect.json").write_text(json.dumps(manifest))
    assert ranks(tmp_path)["traceback_rank_9.txt"] is None


def test_our_own_first_line_knows_the_rank_without_the_manifest(tmp_path: Path) -> None:
    about = {"rank": 5, "host": "node2", "pid": 77, "time": "2026-11-26T10:00:00.5Z"}
    (tmp_path / "moved.txt").write_bytes(f"# torchctl {json.dumps(about)}\n".encode() + dump(5, STUCK))
    (one,) = read(tmp_path).found
    assert (one.rank, one.host, one.pid, at(one)) == (5, "node2", 77, "wait")


def test_a_number_alone_is_a_rank_only_if_it_cannot_be_a_process_id(tmp_path: Path) -> None:
    for number in (1, 2, 3290):
        (tmp_path / f"stacks_{number}.txt").write_bytes(dump(1, WAITING))
    (tmp_path / "pyspy_1.txt").write_text(PYSPY)
    assert set(ranks(tmp_path).values()) == {None}
    (tmp_path / "stacks_3290.txt").rename(tmp_path / "stacks_0.txt")
    assert ranks(tmp_path) == {"stacks_0.txt": 0, "stacks_1.txt": 1, "stacks_2.txt": 2, "pyspy_1.txt": None}
    assert ranks(tmp_path / "stacks_2.txt") == {"stacks_2.txt": 2}


def test_processes_of_a_nodes_file_are_named_by_host_and_pid(tmp_path: Path) -> None:
    for node in (5, 8):
        text = "".join(pyspy(1000 * node + local, "step", local_rank=local) for local in range(3))
        (tmp_path / f"trace-node-{node}.out").write_text(text)
    files = read(tmp_path)
    assert [one.rank for one in files.found] == [None] * 6
    assert names_of(files.found)[:4] == [
        "node-5 pid 5000 (local rank 0)",
        "node-5 pid 5001 (local rank 1)",
        "node-5 pid 5002 (local rank 2)",
        "node-8 pid 8000 (local rank 0)",
    ]


def test_a_rank_in_the_name_of_a_file_of_several_processes_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / "stacks_rank_1.txt").write_text(pyspy(11, "a") + pyspy(12, "b"))
    assert [(one.rank, one.pid, at(one)) for one in read(tmp_path).found] == [(None, 11, "a"), (None, 12, "b")]


def test_the_same_pid_on_hosts_nobody_names_is_told_with_its_file(tmp_path: Path) -> None:
    for name in ("stacks_a.txt", "stacks_b.txt"):
        (tmp_path / name).write_text(pyspy(1, "step"))
    assert names_of(read(tmp_path).found) == [f"pid 1 in {tmp_path}/stacks_a.txt", f"pid 1 in {tmp_path}/stacks_b.txt"]


def test_logs_of_ranks_that_nothing_names_are_called_by_their_paths(tmp_path: Path) -> None:
    """As torchrun's `--log-dir` writes them."""
    for local in range(2):
        (tmp_path / "attempt_0" / str(local)).mkdir(parents=True)
        (tmp_path / "attempt_0" / str(local) / "stderr.log").write_bytes(dump(local, STUCK))
    assert names_of(read(tmp_path).found) == [f"{tmp_path}/attempt_0/{local}/stderr.log" for local in range(2)]


def test_ranks_that_every_nodes_folder_has_again_are_ranks_within_the_node(tmp_path: Path) -> None:
    for node in range(2):
        (tmp_path / f"node{node}").mkdir()
        for local in range(2):
            (tmp_path / f"node{node}" / f"pyspy_rank_{local}.txt").write_text(pyspy(4000 * node + local + 7, "step"))
    found = read(tmp_path).found
    assert [one.rank for one in found] == [None] * 4
    assert names_of(found)[2:] == ["node1 pid 4007 (local rank 0)", "node1 pid 4008 (local rank 1)"]


def test_two_looks_at_the_same_processes_are_no_nodes(tmp_path: Path) -> None:
    for look in ("first", "second"):
        (tmp_path / look).mkdir()
        for rank in range(2):
            (tmp_path / look / f"pyspy_rank_{rank}.txt").write_text(pyspy(50 + rank, look))
    assert [one.rank for one in read(tmp_path).found] == [0, 0, 1, 1]


def test_of_the_debug_servers_dumps_the_last_counts_and_the_time_of_day_is_no_rank(tmp_path: Path) -> None:
    for second, frames in ((7, WAITING), (12, STUCK)):
        parts = [
            f"=== Rank {rank}: http://node0:34425/handler/dump_traceback? ===\n{dump(rank, frames).decode()}"
            for rank in range(3)
        ]
        (tmp_path / f"stacks_20261126_1108{second:02}.txt").write_text("\n".join(parts))
    files = read(tmp_path)
    assert [(one.rank, one.host, at(one)) for one in files.found] == [(rank, "node0", "wait") for rank in range(3)]
    assert files.notes == [
        f"the stacks in {tmp_path}/stacks_20261126_110807.txt are ignored in favor of those in"
        f" {tmp_path}/stacks_20261126_110812.txt"
    ]


def test_why_py_spy_gave_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "pyspy_rank_0.txt").write_text(pyspy(9, "step"))
    (tmp_path / "pyspy_rank_1.txt").write_text(
        "Error: Failed to get process executable name. Check that the process is running.\n\n"
        "Caused by:\n    0: Permission denied (os error 13)\n    1: Permission denied (os error 13)\n"
    )
    (tmp_path / "pyspy_rank_2.txt").write_text("bash: py-spy: command not found\n")
    assert [(one.rank, one.reason) for one in read(tmp_path).found] == [
        (0, ""),
        (1, "says 'Permission denied (os error 13)': py-spy needs to be root, or CAP_SYS_PTRACE in a container"),
        (2, "has no stacks: it holds no thread's stack, but 'bash: py-spy: command not found'"),
    ]


@pytest.mark.parametrize("name", ["rank3.log", "node1_rank_3.err", "rank_3/stderr.log", "worker.rank-3.out"])
def test_faulthandlers_text_in_the_middle_of_a_ranks_log(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    before, after = "step 1\n[rank3] loss 0.1\nTimeout (0:05:00)!\n", "\nstep 2\nTraceback (most recent call last):\n"
    (tmp_path / name).write_text(before + dump(1, STUCK).decode() + after + dump(1, WAITING).decode() + "bye\n")
    (tmp_path / "train.log").write_text("nothing here\n")
    files = read(tmp_path)
    assert [(one.rank, at(one)) for one in files.found] == [(3, "all_reduce")]
    assert files.passed == [f"{tmp_path}/train.log"]
