"""Processes without a server, looked at from outside."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.processes import python
from torchctl.cli import cli
from torchctl.errors import NoWorkersError
from torchctl.server import WorkerServer
from torchctl.workers.find.users import in_runtime_dirs_of

CODE = "def stuck():\n    print('up', flush=True)\n    input()\nstuck()\n"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="torchctl")


def need_pyspy() -> None:
    if not (os.access(Path(sys.executable).parent / "py-spy", os.X_OK) or shutil.which("py-spy")):
        pytest.skip("py-spy is not installed")
    with python(CODE) as process:
        process.wait_for("up")
        if "ermission" in run("traceback", "--pid", str(process.pid)).stderr:
            pytest.skip("py-spy may not read processes here")


def test_a_process_stands_on_the_screen_of_the_workers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_pyspy()
    environment = {"RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "j"}
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "j")
    monkeypatch.setenv("RANK", "0")
    with WorkerServer(str(folder / "s")), python(CODE, environment) as process:
        process.wait_for("up")
        result = run("traceback", "--socket", str(folder / "s"), "--pid", str(process.pid), "--timeout", "20")
        alone = run("traceback", "--pid", str(process.pid), "--timeout", "20")
        ps = json.loads(run("ps", "--pid", str(process.pid), "--json").stdout)["workers"]
    assert result.stdout.startswith("2 ranks answered of 2, job j\n")
    assert "1 rank: 1\n" in result.stdout
    assert "in stuck\n" in result.stdout
    assert alone.stdout.startswith(f"rank 1  pid {process.pid}  pid {process.pid}\n")
    assert "in stuck" in alone.stdout
    assert [(one["rank"], one["pid"], one["world_size"], one["endpoint"]) for one in ps] == [
        (1, process.pid, 2, f"pid {process.pid}")
    ]


def test_what_needs_a_server_and_who_is_not_there_are_failures() -> None:
    with python("print('up', flush=True)\nimport sys\nsys.stdin.read()\n") as process:
        process.wait_for("up")
        result = run("ping", "--pid", str(process.pid))
        assert result.exit_code == 4
        assert result.stderr == (
            f"torchctl: pid {process.pid} is read from outside, which cannot provide ping\n"
            "  `torchctl traceback`, `ps`, `collect` and `diagnose` can use --pid;"
            " the rest requires a server in the process\n"
        )
    with python("") as process:
        process.finish()
    gone = run("ps", "--pid", f"{process.pid}")
    assert gone.exit_code == 3
    assert f"pid {process.pid} does not exist" in gone.stderr
    assert run("ps", "--pid", "x").exit_code == 2


def test_a_process_that_has_a_server_is_not_said_to_have_none(folder: Path) -> None:
    with WorkerServer(str(folder / "rank3-1.sock")):
        result = run("call", "fr_trace_json", "--pid", str(os.getpid()))
    assert result.exit_code == 4
    assert result.stderr == (
        f"torchctl: pid {os.getpid()} is read from outside, which cannot provide fr_trace_json\n"
        f"  the process listens at {folder}/rank3-1.sock: give that with --socket instead of --pid\n"
    )


def test_workers_of_a_user_are_those_in_a_closed_folder_of_that_user(folder: Path) -> None:
    mine = folder / f"torchctl-{os.getuid()}"
    mine.mkdir(mode=0o700)
    (folder / "torchctl-99999").mkdir(mode=0o700)  # belongs to us, not to that uid
    with WorkerServer(str(mine / "rank3-1.sock")), WorkerServer(str(folder / "torchctl-99999" / "rank1-1.sock")):
        for user in (str(os.getuid()), "all"):
            assert [one.rank for one in in_runtime_dirs_of(user, str(folder))] == [3]
        with pytest.raises(NoWorkersError, match="no runtime folder"):
            in_runtime_dirs_of("99999", str(folder))
        mine.chmod(0o755)
        with pytest.raises(NoWorkersError):
            in_runtime_dirs_of("all", str(folder))
    with pytest.raises(NoWorkersError, match="no user 'nobody-of-that-name'"):
        in_runtime_dirs_of("nobody-of-that-name", str(folder))


def test_ps_saves_a_host_file_that_the_next_command_takes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    saved = str(folder / "hosts")
    with WorkerServer(str(folder / "s")), WorkerServer("127.0.0.1", 0) as tcp:
        where = ["--socket", str(folder / "s"), "--host", f"127.0.0.1:{tcp.port}"]
        assert run("ps", *where, "--save", saved).exit_code == 0
        assert Path(saved).read_text().splitlines()[1:] == [
            f"{folder}/s rank=3",
            f"127.0.0.1:{tcp.port} rank=3",
        ]
        assert run("ping", "--hostfile", saved).stdout.count("pong") == 2
