"""`torchctl collect DIR --pipe STEM` against readers of FIFOs as torch's monitor thread is one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.flightrec.synthetic import dump, entry, pickled
from tests.processes import Process, python
from torchctl.cli import cli
from torchctl.reports.pipes import dump_prefixes

# Reads its FIFO as torch does (non-blocking, polled), and then writes its dump in two pieces.
RANK = """
import os, select, sys, time
pipe, target, source = sys.argv[1:]
os.mkfifo(pipe)
fd = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
print("ready", flush=True)
while True:
    if select.select([fd], [], [], 1)[0] and os.read(fd, 100):
        break
    time.sleep(0.01)
data = open(source, "rb").read()
with open(target, "wb") as file:
    file.write(data[:10]); file.flush(); file.write(data[10:])
sys.stdin.read()
"""


def rank_process(folder: Path, rank: int) -> list[str]:
    source = folder / f"source{rank}"
    source.write_bytes(pickled(dump([entry(1)])))
    return [str(folder / f"stem{rank}.pipe"), str(folder / f"out_{rank}"), str(source)]


@pytest.fixture
def two_ranks(folder: Path) -> Iterator[list[Process]]:
    with ExitStack() as stack:
        processes = []
        for rank in range(2):
            code = f"import sys\nsys.argv[1:] = {rank_process(folder, rank)!r}\n{RANK}"
            processes.append(stack.enter_context(python(code)))
        for process in processes:
            process.wait_for("ready")
        yield processes


def run(*args: object) -> Result:
    return CliRunner().invoke(cli, ["collect", *map(str, args)])


def test_every_rank_that_reads_its_pipe_gives_its_dump(two_ranks: list[Process], folder: Path) -> None:
    (folder / "out_0").write_bytes(b"an old dump")
    saved = folder / "saved"
    result = run(saved, "--pipe", folder / "stem", "--dump-prefix", folder / "out_", "--timeout", 20)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"rank 0: {saved}/nccl_trace_rank_0\nrank 1: {saved}/nccl_trace_rank_1\n"
    assert (saved / "nccl_trace_rank_0").read_bytes() == (folder / "source0").read_bytes()


def test_a_rank_that_does_not_answer_is_named(two_ranks: list[Process], folder: Path) -> None:
    two_ranks[1].end()
    os.mkfifo(folder / "stem2.pipe")
    silent = os.open(folder / "stem2.pipe", os.O_RDONLY | os.O_NONBLOCK)
    (folder / "stem3.pipe").write_text("no pipe at all")
    result = run(folder / "saved", "--pipe", folder / "stem", "--dump-prefix", folder / "out_", "--timeout", 1)
    os.close(silent)
    assert result.exit_code == 5
    assert result.stdout == f"rank 0: {folder}/saved/nccl_trace_rank_0\n"
    assert result.stderr == (
        "torchctl: rank 1: nothing reads its pipe: the process has ended, or is shutting down\n"
        "torchctl: rank 2: wrote no dump within 1s\n"
    )
    assert (folder / "stem3.pipe").read_text() == "no pipe at all"


def test_without_a_pipe_the_variable_is_named(folder: Path) -> None:
    result = run(folder / "saved", "--pipe", folder / "stem")
    assert result.exit_code == 3
    assert "TORCH_NCCL_DEBUG_INFO_PIPE_FILE" in result.stderr


def test_dumps_are_looked_for_where_torch_writes_them() -> None:
    assert dump_prefixes({"TORCH_FR_DUMP_TEMP_FILE": "/x/t_"}) == ["/x/t_"]
    assert dump_prefixes({"HOME": "/h"}) == ["/h/.cache/torch/comm_lib_trace_rank_", "/tmp/nccl_trace_rank_"]
