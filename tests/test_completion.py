"""Completion: the committed scripts are the commands' own, a real bash uses them, a wheel carries them."""

import importlib.metadata
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.listeners import listening, reply, silent
from tests.sentinels import eventually
from torchctl.commands.completion import script
from torchctl.server import WorkerServer

ROOT = Path(__file__).parents[1]


@pytest.fixture
def path_with_torchctl(folder: Path) -> str:
    program = folder / "bin" / "torchctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m torchctl "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return f"{program.parent}:/usr/bin:/bin"


def complete(path: str, *words: str) -> list[str]:
    """Return what a real bash offers for the last word."""
    line = " ".join(f"'{word}'" for word in ("torchctl", *words))
    code = (
        f"source {ROOT}/completions/torchctl.bash\nCOMP_WORDS=({line})\nCOMP_CWORD={len(words)}\n"
        '_torchctl_completion torchctl\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    result = subprocess.run(
        ["bash", "--norc", "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ, "PATH": path}
    )
    # bash refuses compopt outside of a real Tab; nothing else may appear there
    assert all("compopt" in error for error in result.stderr.splitlines())
    return result.stdout.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_committed_script_is_current(shell: str) -> None:
    assert (ROOT / "completions" / f"torchctl.{shell}").read_text() == script(shell), "run `make completions`"


def test_bash_completes_commands_and_options(path_with_torchctl: str) -> None:
    assert complete(path_with_torchctl, "tr") == ["traceback"]
    assert complete(path_with_torchctl, "ping", "--so") == ["--socket"]
    assert complete(path_with_torchctl, "completion", "f") == ["fish"]


def test_bash_completes_live_sockets_and_handlers(path_with_torchctl: str, own_environment: Path) -> None:
    own_environment.mkdir(mode=0o700)
    live, dead = str(own_environment / "rank0-1.sock"), own_environment / "rank1-2.sock"
    with WorkerServer(live):
        server = WorkerServer(str(dead))
        server.shutdown()
        assert complete(path_with_torchctl, "ping", "--socket", str(own_environment)) == [live]
        names = ["dump_nccl_trace_json", "dump_nccl_trace_pickle"]
        # On a machine that is busy enough nothing comes in time, and one presses Tab again.
        eventually(lambda: complete(path_with_torchctl, "call", "dump_n") == names)
        eventually(lambda: complete(path_with_torchctl, "call", "--socket", live, "wait") == ["wait_counter_values"])


def test_a_worker_that_is_slow_to_answer_completes_too(path_with_torchctl: str, own_environment: Path) -> None:
    def slowly(connection: socket.socket) -> None:
        threading.Event().wait(0.6)  # longer than the first bound
        reply(b'["ping"]')(connection)

    own_environment.mkdir(mode=0o700)
    with listening(str(own_environment / "a.sock"), slowly):
        eventually(lambda: complete(path_with_torchctl, "call", "") == ["ping"])


def test_completion_is_silent_and_quick_when_workers_do_not_answer(
    path_with_torchctl: str, own_environment: Path
) -> None:
    own_environment.mkdir(mode=0o700)
    with listening(str(own_environment / "a.sock"), silent):
        began = time.monotonic()
        assert complete(path_with_torchctl, "call", "") == []
        assert time.monotonic() - began < 60  # a guard; the half second is the bench's
    own_environment.chmod(0o777)
    assert complete(path_with_torchctl, "call", "") == []


def can_build_wheels() -> bool:
    """Whether setuptools 77 or later, which reads this project's license field, is installed."""
    try:
        return int(importlib.metadata.version("setuptools").split(".")[0]) >= 77
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.mark.skipif(not can_build_wheels(), reason="no setuptools 77 or later is installed, so no wheel can be built")
def test_a_wheel_in_an_empty_folder_prints_the_same_scripts_and_pages(folder: Path) -> None:
    target, empty = folder / "site", folder / "empty"
    empty.mkdir()
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["install", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target), str(copy(folder))]
    subprocess.run([*pip, *build], check=True, timeout=110, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(target)}
    assert (target / "torchctl" / "server" / "__main__.py").is_file()
    assert (target / "torchctl" / "storeutil" / "__init__.py").is_file()
    pages = {path.name: path.read_text() for path in (target / "torchctl" / "guide").iterdir()}
    assert pages == {path.name: path.read_text() for path in (ROOT / "torchctl" / "guide").iterdir()}
    printed = {("completion", shell): script(shell) for shell in ("bash", "zsh", "fish")}
    printed["help", "exit-codes"] = pages["exit-codes.md"]
    for words, expected in printed.items():
        out = subprocess.run(
            [sys.executable, "-m", "torchctl", *words],
            cwd=empty,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert out.stdout == expected
    where = [sys.executable, "-c", "import torchctl; print(torchctl.__file__)"]
    out = subprocess.run(where, cwd=empty, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert out.stdout.startswith(str(target))


def copy(folder: Path) -> Path:
    """Copy what a wheel is made of: building in the checkout would leave folders there."""
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("torchctl", "server", "storeutil"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    return source
