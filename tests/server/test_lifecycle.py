"""`worker_main`: where the server listens, and that it never costs the training anything."""

import json
import logging
import os
from pathlib import Path

import pytest

from tests.http_client import post
from tests.processes import python
from torchctl.process.lastword import SUFFIX
from torchctl.server import TORCH_WORKER_SERVER_SOCKET, worker_main
from torchctl.server.lifecycle import socket_path


def test_the_variable_names_the_socket(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert TORCH_WORKER_SERVER_SOCKET == "TORCH_WORKER_SERVER_SOCKET"
    path = str(folder / "socket.sock")
    monkeypatch.setenv(TORCH_WORKER_SERVER_SOCKET, path)
    with worker_main():
        assert post(path, "ping").body == b"pong"
    assert not os.path.exists(path)


def test_it_decorates_a_function(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(folder / "s")
    monkeypatch.setenv(TORCH_WORKER_SERVER_SOCKET, path)

    @worker_main()
    def main(number: int) -> int:
        assert post(path, "ping").body == b"pong"
        return number + 1

    assert [main(1), main(2)] == [2, 3]


def test_unset_means_the_runtime_folder(own_environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    with worker_main():
        assert os.listdir(own_environment) == [f"rank3-{os.getpid()}.sock"]
    assert os.listdir(own_environment) == []
    assert own_environment.stat().st_mode & 0o777 == 0o700


def test_set_but_empty_means_no_server(own_environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TORCH_WORKER_SERVER_SOCKET, "")
    with worker_main():
        assert not own_environment.exists()


@pytest.mark.parametrize(
    ("value", "local_rank", "path"),
    [
        ("/x/s", None, "/x/s"),
        ("/x/s", "0", "/x/s"),
        ("/x/s", "2", "/x/s.2"),
        ("/x/{rank}-{local_rank}-{pid}", "2", "/x/9-2-{pid}"),
        ("/x/{local_rank}", None, "/x/unknown"),
    ],
)
def test_ranks_that_share_a_value_get_paths_of_their_own(
    monkeypatch: pytest.MonkeyPatch, value: str, local_rank: str | None, path: str
) -> None:
    monkeypatch.setenv(TORCH_WORKER_SERVER_SOCKET, value)
    monkeypatch.setenv("RANK", "9")
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert socket_path() == path.format(pid=os.getpid())


@pytest.mark.parametrize("value", ["/nowhere/at/all/s", "/tmp/" + "x" * 200])
def test_a_server_that_cannot_start_is_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, value: str
) -> None:
    monkeypatch.setenv(TORCH_WORKER_SERVER_SOCKET, value)
    with worker_main():
        pass
    assert [(record.levelno, record.name) for record in caplog.records] == [(logging.WARNING, "torchctl.server")]
    assert "no debug server in this process" in caplog.text


def test_an_untrusted_runtime_folder_is_one_warning(own_environment: Path, caplog: pytest.LogCaptureFixture) -> None:
    own_environment.mkdir(mode=0o700)
    own_environment.chmod(0o755)
    with worker_main():
        assert os.listdir(own_environment) == []
    assert "open to others" in caplog.text


def test_leftovers_in_the_runtime_folder_go_after_a_day(own_environment: Path) -> None:
    own_environment.mkdir(mode=0o700)
    code = "import os, sys, torchctl.server as s; s.WorkerServer(sys.stdin.readline().strip()); os._exit(0)"
    for name in ("old.sock", "new.sock"):
        with python(code) as process:
            process.tell(str(own_environment / name))
            assert process.finish()[0] == 0
    (own_environment / "notes.txt").write_text("kept")
    for name in ("old.sock", "notes.txt"):
        os.utime(own_environment / name, (0, 0))
    with worker_main():
        assert {"new.sock", "notes.txt", f"{os.getpid()}.sock"} == set(os.listdir(own_environment))


def test_an_exception_of_the_body_goes_through_unchanged(own_environment: Path) -> None:
    with pytest.raises(KeyError, match="mine"), worker_main():
        raise KeyError("mine")
    assert [name for name in os.listdir(own_environment) if not name.endswith(SUFFIX)] == []


@pytest.mark.torch
def test_with_torch_loaded_the_error_file_is_written(folder: Path) -> None:
    """As torch's `record` does, for torchelastic's summary of the failure."""
    code = (
        "import torch\n"
        "from torchctl.server import worker_main\n"
        "@worker_main()\n"
        "def main():\n"
        "    raise RuntimeError('a bad batch')\n"
        "main()\n"
    )
    error_file = folder / "error.json"
    with python(code, {"TORCHELASTIC_ERROR_FILE": str(error_file)}) as process:
        assert process.finish()[0] == 1
    assert "a bad batch" in json.dumps(json.loads(error_file.read_text()))


def test_worker_main_imports_the_standard_library_only() -> None:
    code = (
        "import sys, torchctl.server\n"
        "with torchctl.server.worker_main(): pass\n"
        "print(sorted({'torch', 'click', 'rich', 'urllib3', 'numpy', 'asyncio'} & set(sys.modules)))\n"
    )
    with python(code) as process:
        assert process.finish() == (0, "[]\n", "")
