"""What every test shares: short folders for sockets, and an environment without other people's jobs."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

JOB_VARIABLES = (
    "TORCH_WORKER_SERVER_SOCKET",
    "TORCHCTL_TOKEN",
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NTASKS",
    "SLURM_JOB_ID",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_ERROR_FILE",
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for sockets, whatever the test's name."""
    path = Path(tempfile.mkdtemp(prefix="tc-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(autouse=True)
def own_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the test away from workers, jobs and settings of this machine; return its runtime folder."""
    for name in JOB_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    runtime = folder / "run"
    monkeypatch.setenv("TORCHCTL_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("RES_OPTIONS", "attempts:0")  # TCPStore looks up names, and a lookup may stall
    return runtime
