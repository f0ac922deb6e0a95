"""Files that are not read are named with the reason; what is no dump at all is a note where no rank lacks one."""

from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.flightrec.synthetic import active, dump, entry, pickled
from tests.reports.test_stackfiles import pyspy
from tests.stacks.texts import STUCK
from tests.stacks.texts import dump as stacks
from torchctl.cli import cli

THREE = {"0": {"name": "0", "desc": "default_pg", "ranks": "[0, 1, 2]"}}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="torchctl")


@pytest.fixture
def hung(tmp_path: Path) -> Path:
    """A folder of three ranks' dumps; rank 2 has not entered what the others are in."""
    for rank in range(3):
        rows = [entry(1)] if rank == 2 else [entry(1), active(2, state="started")]
        (tmp_path / f"nccl_trace_rank_{rank}").write_bytes(pickled(dump(rows, pg_config=THREE)))
    return tmp_path


def test_what_is_no_dump_at_all_beside_dumps_is_a_note(hung: Path) -> None:
    (hung / "core.4011").write_bytes(b"\x7fELF" + bytes(400))
    (hung / "job.log").write_text("step 1\nstep 2\n")
    (hung / "rank_1_old").write_text("not a dump\n")  # rank 1 has one
    (hung / "README").write_text("the hang of monday\n")
    (hung / "node3").write_bytes(stacks(2, STUCK))  # as clush writes it
    result = run("diagnose", "--json", hung)
    found = json.loads(result.stdout)
    assert [(one["kind"], one["culprit_ranks"]) for one in found["findings"]] == [("not_entered", [2])]
    assert sorted((one["kind"], Path(one["endpoint"]).name) for one in found["failures"]) == [
        ("not_read", "core.4011"),
        ("not_read", "job.log"),
        ("not_read", "rank_1_old"),
    ]
    assert f"torchctl: {hung}/core.4011 is a core file or a program, not a dump of a flight recorder\n" in result.stderr
    assert [one["name"] for one in found["processes"]] == ["node3"]


def test_it_is_a_finding_where_a_rank_is_missing_because_of_it(hung: Path) -> None:
    (hung / "nccl_trace_rank_1").write_text("disk full\n")
    found = json.loads(run("diagnose", "--json", hung).stdout)
    assert ("bad_file", [1]) in [(one["kind"], one["culprit_ranks"]) for one in found["findings"]]


@pytest.mark.parametrize("form", ["zip", "tar.gz", "dumps"])
def test_an_archive_is_named_and_the_next_step_unpacks_it(form: str, hung: Path) -> None:
    archive = hung / f"traces.{form}"
    traces = sorted(hung.glob("nccl_trace_rank_*"))
    if form == "tar.gz":
        with tarfile.open(archive, "w:gz") as made:
            for trace in traces:
                made.add(trace)
    else:
        with zipfile.ZipFile(archive, "w") as packed:
            for trace in traces:
                packed.write(trace)
    for trace in traces:
        trace.unlink()
    for path in (hung, archive):
        result = run("diagnose", path)
        said = f"{archive} is an archive: unpack it, and diagnose the folder"
        assert result.stdout.startswith(f"Cannot tell: there is no dump and no stack from any rank; {said}.\n")
        assert result.stdout.endswith(f"next: unpack {archive} and diagnose the folder\n")
        assert result.exit_code == 1
    for command in ("traceback", "nccl-trace"):
        result = run(command, hung)
        assert (result.exit_code, result.stdout) == (1, "")
        assert f"{archive} is a" in result.stderr and "archive" in result.stderr


def test_a_py_spy_that_was_not_allowed_is_named_and_its_rank_is_not_innocent(tmp_path: Path) -> None:
    for rank in range(3):
        (tmp_path / f"pyspy_rank_{rank}.txt").write_bytes(stacks(rank, STUCK))
    (tmp_path / "pyspy_rank_3.txt").write_text("Error: Permission Denied: Try again with sudo\n")
    result = run("diagnose", tmp_path)
    assert f"rank 3: {tmp_path}/pyspy_rank_3.txt says 'Permission Denied'" in result.stderr
    assert "CAP_SYS_PTRACE" in result.stderr
    assert "missing: 3" in result.stdout
    assert "CAP_SYS_PTRACE" in run("traceback", tmp_path).stderr


def test_a_process_of_a_node_that_py_spy_could_not_read_is_not_forgotten(tmp_path: Path) -> None:
    whole = "".join(pyspy(pid, "step") for pid in (7, 8))
    (tmp_path / "stacks_node3.txt").write_text(f"{whole}Error: No such process (os error 3)\n")
    result = run("diagnose", tmp_path)
    assert result.exit_code == 1
    assert f"  {tmp_path}/stacks_node3.txt says 'No such process (os error 3)'\n" in result.stdout
