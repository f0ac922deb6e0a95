"""The command line as a process: start-up, help, interruption, broken pipes."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests import listeners
from tests.listeners import listening
from tests.processes import running
from torchctl.server import WorkerServer

TORCHCTL = [sys.executable, "-m", "torchctl"]
HEAVY = ["torch", "rich", "asyncio", "requests", "numpy", "concurrent.futures", "pickle", "subprocess"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TORCHCTL, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
    )


def test_the_version() -> None:
    assert run("--version").stdout.startswith("torchctl, version ")


def test_ping_imports_nothing_heavy(folder: Path) -> None:
    code = (
        "import sys, click, urllib3\nbase = set(sys.modules)\nsys.argv[1:] = ['ping', '--socket', sys.argv[1]]\n"
        "from torchctl.cli import main\n"
        "try: main()\nexcept SystemExit as e: assert not e.code, e.code\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules) - base))\n"
    )
    with WorkerServer(str(folder / "s")):
        arguments = [sys.executable, "-c", code, str(folder / "s")]
        out = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert out.stdout.splitlines()[-1] == "[]", out.stderr


def test_help_imports_no_command() -> None:
    code = (
        "import sys\nfrom torchctl.cli import main\nsys.argv[1:] = ['--help']\n"
        "try: main()\nexcept SystemExit as e: assert not e.code, e.code\n"
        "print(sorted(name for name in sys.modules if name.startswith('torchctl.')))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    listed = ["cli", "commands", "commands.grouping", "commands.summaries", "errors"]
    assert out.stdout.splitlines()[-1] == str([f"torchctl.{name}" for name in listed]), out.stderr


def test_worker_commands_never_import_torch(folder: Path) -> None:
    code = (
        "import sys\nsys.modules['torch'] = None\nimport torchctl.cli as c\n"
        "for command in ('ping', 'ps', 'traceback', 'handlers', 'call ping'):\n"
        "    try: c.cli.main([*command.split(), '--socket', sys.argv[1]], 'torchctl')\n"
        "    except SystemExit as e: assert e.code == 0, (command, e.code)\n"
    )
    with WorkerServer(str(folder / "s")):
        arguments = [sys.executable, "-c", code, str(folder / "s")]
        out = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert (out.returncode, out.stderr) == (0, "")


def test_an_error_is_a_sentence_and_with_debug_a_traceback(folder: Path) -> None:
    plain = run("ping")
    assert plain.returncode == 3
    assert "Traceback" not in plain.stderr
    debug = run("--debug", "ping")
    assert debug.returncode == 1
    assert "NoWorkersError" in debug.stderr
    assert "Traceback" in debug.stderr


def test_ctrl_c_ends_a_wait_at_once_without_a_traceback(folder: Path) -> None:
    asked = threading.Event()

    def serve(connection: socket.socket) -> None:
        asked.set()
        listeners.silent(connection)

    command = [*TORCHCTL, "ping", "--socket", str(folder / "s"), "--timeout", "60"]
    with listening(str(folder / "s"), serve), running(command) as process:
        assert asked.wait(30)
        process.popen.send_signal(signal.SIGINT)
        code, out, err = process.finish(10)
    assert (code, out) == (130, "")
    assert err == f"torchctl: {folder}/s had not answered when the command was interrupted\n"


def test_a_reader_that_goes_away_is_no_error_message(folder: Path) -> None:
    with WorkerServer(str(folder / "s")):
        command = (
            f"{sys.executable} -m torchctl call dump_traceback --socket {folder}/s | true; echo ${{PIPESTATUS[0]}}"
        )
        out = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert out.stderr == ""
    assert out.stdout in ("0\n", "1\n")


def test_no_colour_codes_in_a_pipe(folder: Path) -> None:
    with WorkerServer(str(folder / "s")):
        for command in ("ps", "traceback"):
            assert "\x1b" not in run(command, "--socket", str(folder / "s")).stdout


@pytest.mark.parametrize("command", ["ping", "ps", "traceback", "handlers --json"])
def test_an_output_that_cannot_be_written_is_one_sentence(folder: Path, command: str) -> None:
    with WorkerServer(str(folder / "s")), open("/dev/full", "w") as full:
        arguments = [*TORCHCTL, *command.split(), "--socket", str(folder / "s")]
        out = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (out.returncode, out.stderr) == (1, "torchctl: cannot write the output: No space left on device\n")


def test_the_commands_load_with_a_click_whose_parameter_types_take_no_value_type() -> None:
    code = (
        "import importlib, click\n"
        "click.ParamType.__class_getitem__ = None  # as before click 8.4\n"
        "from torchctl.cli import COMMANDS\n"
        "for name in COMMANDS: importlib.import_module('torchctl.commands.' + name.replace('-', '_'))\n"
    )
    with running([sys.executable, "-c", code]) as process:
        assert process.finish() == (0, "", "")


@pytest.mark.parametrize(
    ("typed", "said"), [("pnig", " Did you mean 'ping'?"), ("digaose", " Did you mean 'diagnose'?"), ("x", "")]
)
def test_a_mistyped_command_is_answered_with_the_nearest(typed: str, said: str) -> None:
    result = run(typed)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.endswith(f"Error: No such command '{typed}'.{said}\n")


@pytest.mark.parametrize("former", ["default_int_handler", "SIG_IGN"])
def test_ctrl_c_while_modules_load_is_no_traceback(former: str) -> None:
    code = (
        f"import signal\nsignal.signal(signal.SIGINT, signal.{former})\nimport torchctl.__main__\n"
        "print(signal.getsignal(signal.SIGINT).name)\n"
    )
    with running([sys.executable, "-c", code]) as process:
        assert process.finish() == (0, "SIG_DFL\n" if former == "default_int_handler" else "SIG_IGN\n", "")
