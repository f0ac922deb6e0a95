"""What the newest py-spy prints of real jobs, kept in files as people keep them, and what is read from these."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.live.jobs import forked_job
from tests.workers.test_processes import need_pyspy
from torchctl.cli import cli

pytestmark = [pytest.mark.torch, pytest.mark.timeout(300)]
RANKS = 4
ODD = 2
SCRIPT = """\
import os
import queue
import pdb
import threading
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset

RANK = int(os.environ["RANK"])
MODE = os.environ["MODE"]

class Squares(Dataset):
    def __len__(self): return 8
    def __getitem__(self, at): return at * at

def next_batch(secret=(1, "a (b.py:1)")):
    text = "Process 1: x\\nThread 1 (idle)"
    queue.Queue().get()

def reduce(tensor):
    dist.all_reduce(tensor)

def train_step(step):
    tensor = torch.ones(4) * step
    if RANK == 2:
        if MODE == "pdb":
            os.dup2(os.pipe()[0], 0)
            pdb.Pdb(stdin=open(0), stdout=open(os.devnull, "w"), nosigint=True).set_trace()
        next_batch()
    reduce(tensor)

def exchange():
    if RANK == 2:
        dist.all_gather([torch.zeros(2) for _ in range(4)], torch.ones(2), group=OTHER)
    dist.broadcast(torch.ones(2), src=2)

def everyone():
    dist.recv(torch.ones(2), src=(RANK + 1) % 4)

def on_a_thread():
    thread = threading.Thread(target=train_step, args=(1,))
    thread.start()
    thread.join()

dist.init_process_group("gloo")
OTHER = dist.new_group(range(4))
if MODE == "children":
    batches = iter(DataLoader(Squares(), num_workers=1, persistent_workers=True))
    next(batches)
{"calls": exchange, "recv": everyone, "thread": on_a_thread}.get(MODE, lambda: train_step(1))()
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="torchctl")


def diagnosis(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(run("diagnose", "--json", folder).stdout)
    return found


def first(found: dict[str, object]) -> dict[str, object]:
    findings = found["findings"]
    assert isinstance(findings, list)
    assert findings, found
    one = findings[0]
    assert isinstance(one, dict)
    return one


class Job:
    """A job whose ranks are where its mode sends them."""

    def __init__(self, pids: Sequence[int]) -> None:
        self.pids = pids

    def dump(self, *options: str, until: str = "") -> list[str]:
        """Return what py-spy prints of each rank, when all are where they stay."""
        program = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or "py-spy"
        deadline = time.monotonic() + 60
        while True:
            texts = []
            for pid in self.pids:
                result = subprocess.run([program, "dump", "--pid", str(pid), *options], capture_output=True, timeout=60)
                texts.append(result.stdout.decode())
            if all(any(place in text for place in (until or "all_reduce next_batch").split()) for text in texts):
                return texts
            assert time.monotonic() < deadline, texts
            time.sleep(0.1)


@pytest.fixture(params=["hang"])
def job(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Job]:
    need_pyspy()
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    with tempfile.TemporaryDirectory(prefix="tc-") as sockets:
        runtime = Path(sockets)
        environment = {"MODE": request.param, "TORCHCTL_SENTINEL": "0", "TORCH_FR_BUFFER_SIZE": "0"}
        with forked_job(script, RANKS, runtime, environment=environment):
            names = {path.name.partition("-")[0]: path.stem.rpartition("-")[2] for path in runtime.glob("*.sock")}
            yield Job([int(names[f"rank{rank}"]) for rank in range(RANKS)])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_a_hang_in_every_form_that_people_keep(job: Job, out: Path) -> None:
    plain = job.dump()
    if sys.version_info >= (3, 11):
        assert "_exception_logger.<locals>.wrapper (torch/distributed/c10d_logger.py:" in plain[0]
    forms = {
        "plain": plain,
        "locals": job.dump("--locals"),
        "json": job.dump("--json"),
        "full": job.dump("--full-filenames"),
        "nonblocking": job.dump("--nonblocking"),
    }
    assert "Arguments:" in forms["locals"][ODD]
    for form, texts in forms.items():
        by_rank = out / form
        by_rank.mkdir()
        for rank, text in enumerate(texts):
            (by_rank / f"pyspy_rank_{rank}.{'json' if form == 'json' else 'txt'}").write_text(text)
        found = first(diagnosis(by_rank))
        assert (found["kind"], found["culprit_ranks"], found["waiting_ranks"]) == ("not_entered", [ODD], [0, 1, 3])
        location = found["location"]
        assert isinstance(location, dict)
        assert (Path(location["file"]).name, location["function"]) == ("train.py", "next_batch")

    pids = [f"pid {pid}" for pid in job.pids]
    whole = out / "node"
    whole.mkdir()
    (whole / "stacks_node-3.txt").write_text("".join(plain))
    found = first(diagnosis(whole))
    culprits = found["culprit_processes"]
    assert isinstance(culprits, list)
    assert (found["kind"], found["culprit_ranks"]) == ("stack_outlier", [])
    assert culprits == [{"name": f"node-3 {pids[ODD]}", "host": "node-3", "pid": job.pids[ODD]}]
    shown = run("traceback", whole).stdout
    assert f"1 worker: node-3 {pids[ODD]}\n" in shown

    by_pid = out / "pids"
    by_pid.mkdir()
    for pid, text in zip(job.pids, plain, strict=True):
        (by_pid / f"pyspy_{pid}.txt").write_text("".join(f"node3: {line}\n" for line in text.splitlines()))
    assert [one["name"] for one in first(diagnosis(by_pid))["culprit_processes"]] == [f"node3 {pids[ODD]}"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("job", ["calls"], indirect=True)
def test_two_operations_are_not_taken_for_one(job: Job, out: Path) -> None:
    for rank, text in enumerate(job.dump(until="all_gather broadcast")):
        (out / f"pyspy_rank_{rank}.txt").write_text(text)
    found = first(diagnosis(out))
    assert (found["kind"], found["culprit_ranks"], found["waiting_ranks"]) == ("op_mismatch", [ODD], [0, 1, 3])
    assert found["confidence"] != "certain"


@pytest.mark.parametrize("job", ["recv"], indirect=True)
def test_all_in_one_call_name_nobody(job: Job, out: Path) -> None:
    (out / "stacks.txt").write_text("".join(job.dump(until="recv")))
    found = diagnosis(out)
    assert (found["healthy"], found["findings"]) == (None, [])
    assert str(found["verdict"]).startswith("Cannot tell: all 4 stacks are in recv, called in everyone, train.py:")


@pytest.mark.parametrize("job", ["thread"], indirect=True)
def test_the_thread_that_trains_is_the_ranks(job: Job, out: Path) -> None:
    for rank, text in enumerate(job.dump()):
        (out / f"pyspy_rank_{rank}.txt").write_text(text)
    found = first(diagnosis(out))
    assert (found["culprit_ranks"], found["waiting_ranks"]) == ([ODD], [0, 1, 3])
    assert found["location"]["function"] == "next_batch"  # type: ignore[index]
    assert "training thread" in run("traceback", out).stdout


@pytest.mark.parametrize("job", ["pdb"], indirect=True)
def test_a_rank_at_pdbs_prompt_is_called_so(job: Job, out: Path) -> None:
    for rank, text in enumerate(job.dump(until="all_reduce cmdloop")):
        (out / f"pyspy_rank_{rank}.txt").write_text(text)
    found = first(diagnosis(out))
    assert found["culprit_ranks"] == [ODD]
    assert str(found["summary"]).endswith("; rank 2 is at a debugger's prompt (pdb)")
    assert found["location"]["function"] == "train_step"  # type: ignore[index]


@pytest.mark.parametrize("job", ["children"], indirect=True)
def test_workers_of_data_loaders_are_no_ranks(job: Job, out: Path) -> None:
    texts = job.dump("--subprocesses")
    assert all("Parent Process" in text for text in texts)
    for rank, text in enumerate(texts):
        (out / f"pyspy_rank_{rank}.txt").write_text(text)
    (out.parent / "whole").mkdir()
    (out.parent / "whole" / "stacks.txt").write_text("".join(texts))
    assert first(diagnosis(out))["culprit_ranks"] == [ODD]
    assert "a worker of a data loader" in run("traceback", out).stderr
    whole = diagnosis(out.parent / "whole")
    assert [one["pid"] for one in whole["processes"]] == list(job.pids)  # type: ignore[attr-defined]
    assert [one["pid"] for one in first(whole)["culprit_processes"]] == [job.pids[ODD]]  # type: ignore[attr-defined]
