"""Where py-spy is looked for, how it is called, and what is kept of its errors."""

import sys
from pathlib import Path

import pytest

from torchctl.process.pyspy import complaint, dump_command, find_pyspy


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The interpreter's folder and the one on PATH, both without py-spy."""
    beside, on_path = tmp_path / "env", tmp_path / "bin"
    beside.mkdir()
    on_path.mkdir()
    monkeypatch.setattr(sys, "executable", str(beside / "python"))
    monkeypatch.setenv("PATH", f"{tmp_path}/none:{on_path}")
    return beside, on_path


def install(folder: Path, mode: int = 0o755) -> str:
    program = folder / "py-spy"
    program.write_text("#!/bin/sh\n")
    program.chmod(mode)
    return str(program)


def test_it_is_looked_for_beside_the_interpreter_then_on_path(folders: tuple[Path, Path]) -> None:
    assert find_pyspy() is None
    second = install(folders[1])
    assert find_pyspy() == second
    first = install(folders[0])
    assert find_pyspy() == first


def test_what_cannot_be_run_is_passed_over(folders: tuple[Path, Path]) -> None:
    (folders[0] / "py-spy").mkdir()
    install(folders[1], 0o644)
    assert find_pyspy() is None


def test_an_interpreter_that_does_not_know_its_path_runs_nothing_of_the_current_folder(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "")
    install(folders[0])
    monkeypatch.chdir(folders[0])
    assert find_pyspy() is None


def test_its_command_line() -> None:
    assert dump_command("py-spy", 7) == ["py-spy", "dump", "--nonblocking", "--full-filenames", "--pid", "7"]
    assert dump_command("py-spy", 7, ["--native"]) == ["py-spy", "dump", "--native", "--pid", "7"]


def test_its_own_stack_is_left_out_of_an_error() -> None:
    assert complaint("Error: Failed\n  to read\n\nStack backtrace:\n 0: main\n") == "Error: Failed to read"
    assert len(complaint("x" * 1000)) == 300
