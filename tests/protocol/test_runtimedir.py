"""The runtime folder: created closed, and never trusted when somebody else could have put things there."""

import os
from pathlib import Path

import pytest

from torchctl.errors import RuntimeDirError
from torchctl.protocol.runtimedir import check_runtime_dir, make_runtime_dir, runtime_dir


def test_the_folder_comes_from_the_environment_else_from_the_uid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHCTL_RUNTIME_DIR", "/somewhere")
    assert runtime_dir() == "/somewhere"
    monkeypatch.delenv("TORCHCTL_RUNTIME_DIR")
    assert runtime_dir() == f"/tmp/torchctl-{os.getuid()}"


def test_it_is_created_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert check_runtime_dir(str(path)) is False
    make_runtime_dir(str(path))
    make_runtime_dir(str(path))
    assert path.stat().st_mode & 0o777 == 0o700
    assert check_runtime_dir(str(path)) is True


def test_a_link_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "real"
    target.mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(RuntimeDirError, match="symbolic link"):
        make_runtime_dir(str(link))


def test_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text("")
    with pytest.raises(RuntimeDirError, match="is not a folder"):
        check_runtime_dir(str(path))


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o707, 0o777])
def test_a_folder_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "run"
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(RuntimeDirError, match=f"open to others .mode {mode:04o}"):
        check_runtime_dir(str(path))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a folder of another user")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    os.chown(path, 12345, 12345)
    with pytest.raises(RuntimeDirError, match="belongs to uid 12345"):
        check_runtime_dir(str(path))
