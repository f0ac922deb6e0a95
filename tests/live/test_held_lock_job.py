"""A real gloo job of which one rank holds its interpreter lock in C code: its sentinel answers, and it is named."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests import guide
from tests.folders import short_folder
from tests.live.jobs import forked_job
from tests.sentinels import eventually
from torchctl.cli import cli

pytestmark = [pytest.mark.torch, pytest.mark.timeout(300)]

RANKS, STUCK = 3, 1
REASON = "interpreter lock held; its main thread is sleeping"
TRAINING = f"""
import ctypes
import os
import time

import torch
import torch.distributed as dist

torch.set_num_threads(1)
dist.init_process_group("gloo")
for _ in range(3):
    dist.all_reduce(torch.ones(8))
dist.barrier()


def load_in_c() -> None:
    ctypes.PyDLL(None).sleep(3600)


if dist.get_rank() == {STUCK}:
    while not os.path.exists(os.path.join(os.environ["TORCHCTL_RUNTIME_DIR"], "go")):
        time.sleep(0.01)
    load_in_c()
dist.all_reduce(torch.ones(8))
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="torchctl")


def has_sentinel() -> bool:
    result = run("call", "info", "--ranks", str(STUCK))
    return result.exit_code == 0 and json.loads(result.stdout)["sentinel"] is not None


@pytest.fixture(scope="module")
def job() -> Iterator[Path]:
    """Return the runtime folder of the job, as soon as the stuck rank's sentinel answers."""
    with short_folder() as folder, pytest.MonkeyPatch.context() as patch:
        runtime_dir = folder / "run"
        script = folder / "train.py"
        script.write_text(TRAINING)
        patch.setenv("TORCHCTL_RUNTIME_DIR", str(runtime_dir))
        patch.delenv("TORCHCTL_SENTINEL", raising=False)
        with forked_job(script, RANKS, runtime_dir):
            eventually(has_sentinel, 120)
            (runtime_dir / "go").touch()
            eventually(lambda: REASON in run("ping", "--ranks", str(STUCK), "--timeout", "10").stdout, 120)
            yield runtime_dir


@pytest.fixture(autouse=True)
def look_there(job: Path, own_environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHCTL_RUNTIME_DIR", str(job))


def diagnosis() -> dict[str, Any]:
    result = run("diagnose", "--json", "--timeout", "30")
    assert result.exit_code == 6, result.output
    document = json.loads(result.stdout)
    assert isinstance(document, dict)
    return document


def test_diagnose_names_the_rank_with_its_sentinels_reason() -> None:
    found = eventually(lambda: (one := diagnosis())["findings"] and one)
    (finding,) = found["findings"]
    assert finding["culprit_ranks"] == [STUCK]
    assert REASON in finding["summary"]
    assert finding["waiting_ranks"] == [0, 2]
    assert f"rank {STUCK}" in found["verdict"]


def test_the_guide_shows_what_ping_and_diagnose_print() -> None:
    page = guide.PAGES["torchctl/guide/silence.md"]
    ping = run("ping", "--timeout", "60").stdout
    assert guide.likened(ping) == guide.likened(guide.screen(page, "torchctl ping"))
    verdict = run("diagnose", "--timeout", "60").stdout.splitlines()[0]
    assert guide.likened(verdict) == guide.likened(guide.screen(page, "torchctl diagnose"))
