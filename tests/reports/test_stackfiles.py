"""Files of stacks: which there are in a folder, whose each is, and what is wrong with one."""

import json
from pathlib import Path

import pytest

from tests.stacks.test_reader import PYSPY
from tests.stacks.texts import STUCK, WAITING, dump
from torchctl.errors import TorchctlError
from torchctl.manifest import Answer, Entry, FolderWriter, Manifest
from torchctl.reports.stackfiles import read_stack_files
from torchctl.stacks.reader import StackReader


def ranks(path: Path) -> dict[str, int | None]:
    return {Path(one.path).name: one.rank for one in read_stack_files([str(path)], StackReader())}


def test_a_folders_files_by_rank_and_what_is_wrong_with_one(tmp_path: Path) -> None:
    (tmp_path / "traceback_rank_10.txt").write_bytes(dump(10, WAITING))
    (tmp_path / "traceback_rank_2.txt").write_bytes(dump(2, STUCK))
    (tmp_path / "node7_pyspy_rank3.txt").write_text(PYSPY)
    (tmp_path / "traceback_rank_4.txt").write_text("nothing")
    (tmp_path / "traceback_rank_5.txt").mkdir()
    (tmp_path / "nccl_trace_rank_2").write_bytes(b"other")
    found = list(read_stack_files([str(tmp_path)], StackReader()))
    assert [(one.rank, one.stacks is not None, one.reason) for one in found] == [
        (2, True, ""),
        (3, True, ""),
        (4, False, "has no stacks: it holds no thread's stack"),
        (5, False, "cannot be read: Is a directory"),
        (10, True, ""),
    ]


def test_no_file_of_stacks_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(TorchctlError):
            list(read_stack_files([str(path)], StackReader()))


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


def test_a_number_alone_is_a_rank_only_if_it_cannot_be_a_process_id(tmp_path: Path) -> None:
    for number in (1, 2, 3290):
        (tmp_path / f"stacks_{number}.txt").write_bytes(dump(1, WAITING))
    (tmp_path / "pyspy_1.txt").write_text(PYSPY)
    assert set(ranks(tmp_path).values()) == {None}
    (tmp_path / "stacks_3290.txt").rename(tmp_path / "stacks_0.txt")
    assert ranks(tmp_path) == {"stacks_0.txt": 0, "stacks_1.txt": 1, "stacks_2.txt": 2, "pyspy_1.txt": None}
    assert ranks(tmp_path / "stacks_2.txt") == {"stacks_2.txt": 2}
