"""`python -m torchctl.server train.py`: the script notices nothing, and neither does who runs it."""

import subprocess
import sys
from pathlib import Path

import pytest

SERVER = ["-m", "torchctl.server"]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment_path = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": environment_path,
            "TORCHCTL_RUNTIME_DIR": str(cwd / "run"),
        },
    )


SCRIPTS = {
    "what it sees": (
        "import sys, __main__\n"
        "print(__name__, __file__, sys.argv, sys.path[0], __spec__, __main__.__dict__ is globals(), sys.stdin.read())\n"
    ),
    "a neighbour": "import neighbour\nprint(neighbour.value)\n",
    "an exception": "def inner():\n    1 / 0\n\nprint('before', flush=True)\ninner()\n",
    "a chained exception": "try:\n    {}['a']\nexcept KeyError as e:\n    raise ValueError('b') from e\n",
    "a syntax error": "def broken(:\n",
    "an exit code": "import sys\nsys.exit(7)\n",
    "an exit message": "import sys\nsys.exit('enough')\n",
    "a keyboard interrupt": "raise KeyboardInterrupt\n",
    "an excepthook of its own": (
        "import sys, traceback\n"
        "sys.excepthook = lambda k, v, t: print('hook', k.__name__, len(traceback.extract_tb(t)))\n"
        "raise RuntimeError('x')\n"
    ),
    "an atexit call": "import atexit\natexit.register(print, 'bye')\nraise RuntimeError('x')\n",
    "a death by signal": "import os\nos.kill(os.getpid(), 15)\n",
    "a failing thread": (
        "import threading\nt = threading.Thread(target=lambda: 1 / 0, name='worker-1')\nt.start()\nt.join()\n"
    ),
    "pickled classes and spawned children": (
        "import multiprocessing as mp\n"
        "class Item:\n    x = 3\n"
        "def work(item):\n    return item.x + 1\n"
        "if __name__ == '__main__':\n"
        "    with mp.get_context('spawn').Pool(1) as pool:\n        print(pool.map(work, [Item()]))\n"
    ),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_output_and_exit_code_are_those_of_plain_python(folder: Path, name: str) -> None:
    (folder / "neighbour.py").write_text("value = 'found'\n")
    (folder / "train.py").write_text(SCRIPTS[name])
    alone = run("train.py", "--lr", "0.1", cwd=folder)
    with_us = run(*SERVER, "train.py", "--lr", "0.1", cwd=folder)
    assert (with_us.returncode, with_us.stdout, with_us.stderr) == (
        alone.returncode,
        alone.stdout,
        alone.stderr,
    )


def test_the_server_answers_while_the_script_runs(folder: Path) -> None:
    (folder / "train.py").write_text(
        "import os, socket\n"
        "[name] = os.listdir(os.environ['TORCHCTL_RUNTIME_DIR'])\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "s.connect(os.path.join(os.environ['TORCHCTL_RUNTIME_DIR'], name))\n"
        "s.sendall(b'POST /handler/ping HTTP/1.0\\r\\n\\r\\n')\n"
        "print(s.recv(1000).decode().endswith('pong'))\n"
    )
    assert run(*SERVER, "train.py", cwd=folder).stdout == "True\n"


def test_a_module_runs_too(folder: Path) -> None:
    (folder / "pkg").mkdir()
    (folder / "pkg" / "__main__.py").write_text("import sys\nprint(__name__, sys.argv[1:])\nsys.exit(4)\n")
    result = run(*SERVER, "-m", "pkg", "a", "-b", cwd=folder)
    assert (result.returncode, result.stdout) == (4, "__main__ ['a', '-b']\n")


def test_a_missing_script_is_pythons_own_error(folder: Path) -> None:
    alone, with_us = run("none.py", cwd=folder), run(*SERVER, "none.py", cwd=folder)
    assert (with_us.returncode, with_us.stderr) == (alone.returncode, alone.stderr)


def test_no_script_is_a_usage_error(folder: Path) -> None:
    result = run(*SERVER, cwd=folder)
    assert result.returncode == 2
    assert result.stderr.startswith("usage: python -m torchctl.server [OPTIONS] SCRIPT")


@pytest.mark.parametrize("option", ["--tls-cert", "--token-file", "--unknown", "--read-only=1"])
def test_an_option_without_its_value_or_unknown_is_a_usage_error(folder: Path, option: str) -> None:
    result = run(*SERVER, option, cwd=folder)
    assert result.returncode == 2
    assert result.stderr.startswith("usage: ")


def test_options_before_the_script_are_ours_and_the_others_its_own(folder: Path) -> None:
    (folder / "script.py").write_text(
        "import sys, os, http.client, socket\n"
        "c = http.client.HTTPConnection('x')\nc.sock = socket.socket(socket.AF_UNIX)\n"
        "c.sock.connect(os.path.join('run', os.listdir('run')[0]))\n"
        "c.request('POST', '/handler/pyspy_dump')\nprint(c.getresponse().status, sys.argv)\n"
    )
    result = run(*SERVER, "--read-only", "--token-file=none", "script.py", "--read-only", "-m", "x", cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "403 ['script.py', '--read-only', '-m', 'x']\n"
