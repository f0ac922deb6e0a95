"""A program that has ended and hangs on its way out: its stacks can still be read."""

import socket
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.processes import running
from torchctl.cli import cli

# Each reads a line of stdin where it hangs: the test decides when the process goes on.
PROGRAMS = {
    "a thread that is not a daemon": (
        "import sys, threading\n"
        "def linger():\n    print('here', flush=True)\n    sys.stdin.readline()\n"
        "threading.Thread(target=linger).start()\n"
    ),
    "a function at exit": (
        "import atexit, sys\n"
        "def linger():\n    print('here', flush=True)\n    sys.stdin.readline()\n"
        "atexit.register(linger)\n"
    ),
    "a function at exit, after an exception": (
        "import atexit, sys\n"
        "def linger():\n    print('here', flush=True)\n    sys.stdin.readline()\n"
        "atexit.register(linger)\n"
        "raise ValueError('a bad batch')\n"
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_answers_until_the_process_ends(folder: Path, own_environment: Path, name: str) -> None:
    script = folder / "train.py"
    script.write_text(PROGRAMS[name])
    with running([sys.executable, str(script)]) as alone:
        alone.wait_for("here")
        alone.tell("go on")
        expected = alone.finish()
    environment = {"TORCHCTL_SENTINEL": "0", "PYTHONPATH": str(Path(__file__).parents[2])}
    with running([sys.executable, "-m", "torchctl.server", str(script)], environment) as process:
        process.wait_for("here")
        (path,) = own_environment.glob("*.sock")
        silent = socket.socket(socket.AF_UNIX)
        silent.connect(str(path))  # says nothing, and may not hold up the others or the end of the process
        for _ in range(2):  # each command is a connection, and Python 3.12 starts no thread for it here
            shown = CliRunner().invoke(cli, ["traceback"])
            assert (shown.exit_code, shown.stderr) == (0, "")
            assert "linger" in shown.stdout
        process.tell("go on")
        assert process.finish() == expected
        silent.close()
    assert list(own_environment.glob("*.sock")) == []
