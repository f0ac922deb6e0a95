"""The guide's screen of `torchctl doctor` is what it prints of a process whose interpreter lock is held."""

import os
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests import guide
from tests.processes import running
from tests.sentinels import degraded, eventually
from torchctl.cli import cli

TRAINING = """import ctypes
import sys

lib = ctypes.PyDLL(None)


def load(path: str) -> None:
    lib.sleep(3600)


print("ready", flush=True)
sys.stdin.readline()
load("batch.bin")
"""
pytestmark = pytest.mark.once

COMMAND = "torchctl doctor 15354"


def doctor(pid: int) -> list[str]:
    out = CliRunner().invoke(cli, ["doctor", str(pid), "--timeout", "30"], prog_name="torchctl").stdout
    return out.splitlines()


def test_the_screen_of_doctor(folder: Path, own_environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    (folder / "train.py").write_text(TRAINING)
    place = {"RANK": "3", "WORLD_SIZE": "8", "TORCHCTL_SENTINEL": "1", "TORCHCTL_RUNTIME_DIR": str(own_environment)}
    command = [sys.executable, "-m", "torchctl.server", str(folder / "train.py")]
    with running(command, place) as process:
        process.wait_for("ready")
        eventually(lambda: any(line.startswith("  sentinel          pid ") for line in doctor(process.pid)))
        eventually(lambda: len(os.listdir(f"/proc/{process.pid}/task")) == 2)  # the doctor's connection has ended
        process.tell("go")
        degraded(own_environment / f"rank3-{process.pid}.sock")
        # Its first answers may come before it has looked for a whole second.
        eventually(lambda: any("interpreter lock held; " in line for line in doctor(process.pid)))
        printed = doctor(process.pid)
    shown = guide.screen(guide.PAGES["torchctl/guide/process.md"], COMMAND).splitlines()
    assert facts(printed) == facts(shown)
    if "  MainThread" in "\n".join(printed):  # py-spy is there, and may read
        begin = next(index for index, line in enumerate(printed) if line.startswith("  MainThread"))
        assert guide.likened("\n".join(printed[begin:])) == guide.likened("\n".join(shown[-6:]))


def facts(lines: list[str]) -> list[str]:
    """Return what a screen says above the stack, but for the program's path; a sentence may go on over lines."""
    above = lines[: next((index for index, line in enumerate(lines) if line.startswith("  MainThread")), len(lines))]
    text = "\n".join(line for line in above if not line.startswith("  program")).replace("\n" + " " * 20, " ")
    # A thread may still serve the request before, or wait for the lock with a request that came as it was taken.
    return guide.likened(re.sub(r"\d+ (threads|waiting for it)", r"\1", text))
