"""Starting a process that is nobody's child."""

import os
import shutil
import time
from pathlib import Path

import pytest

from tests.processes import python
from tests.sentinels import eventually
from tests.server.programs import WAITS_FOR_ANY_CHILD
from torchctl.process.pyspy import find_pyspy
from torchctl.server.guest import detach

pytestmark = pytest.mark.usefixtures("with_sentinel")


def test_it_runs_detached_and_its_output_goes_where_it_should(folder: Path) -> None:
    out = folder / "out with a ' quote"
    detach.start(["/bin/sh", "-c", 'echo "$PPID" "$1"; echo err >&2', "sh", "a b;$(c)"], str(out))
    eventually(lambda: out.exists() and out.read_text().endswith("err\n"))
    parent, rest = out.read_text().split(" ", 1)
    assert int(parent) != os.getpid()
    assert rest == "a b;$(c)\nerr\n"


def test_a_command_that_does_not_exist_is_no_error(folder: Path) -> None:
    detach.start([str(folder / "nothing")])


def test_open_files_of_the_program_stay_its_own(folder: Path) -> None:
    out = folder / "out"
    with open(folder / "secret", "w", encoding="ascii") as secret:
        detach.start(["/bin/ls", "-l", "/proc/self/fd"], str(out))
        eventually(lambda: out.exists() and "total" in out.read_text())
        time.sleep(0.1)
        assert str(secret.name) not in out.read_text()


@pytest.mark.skipif(find_pyspy() is None, reason="py-spy is not installed")
def test_no_wait_sees_py_spy_either(folder: Path) -> None:
    path = folder / "s"
    code = (
        WAITS_FOR_ANY_CHILD + "waiter = threading.Thread(target=wait)\nwaiter.start()\n"
        "import torchctl.server as s\n"
        f"server = s.WorkerServer({str(path)!r})\n"
        "from tests.http_client import post\n"
        f"replies = [post({str(path)!r}, 'pyspy_dump').status for _ in range(3)]\n"
        "end.set()\nwaiter.join()\nserver.shutdown()\n"
        "print(replies, seen, told)\n"
    )
    root = str(Path(__file__).parents[2])
    with python(code, {"PYTHONPATH": root}) as process:
        code_, out, err = process.finish()
    assert (code_, out.splitlines()[-1:], err) == (0, ["[200, 200, 200] [] []"], "")


def test_where_no_clone_is_to_be_had_a_shell_stands_in(folder: Path) -> None:
    """A process without ctypes, as on a slim build: the same command runs."""
    out = folder / "out"
    code = (
        "import sys\nsys.modules['ctypes'] = None\n"
        "from torchctl.server.guest import detach\n"
        f"detach.start([{shutil.which('echo')!r}, 'ran'], {str(out)!r})\n"
        "import os\n"
        "try:\n    os.wait()\nexcept ChildProcessError:\n    print('no child')\n"
    )
    with python(code) as process:
        assert process.finish() == (0, "no child\n", "")
    eventually(lambda: out.exists() and out.read_text() == "ran\n")
