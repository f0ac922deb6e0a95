"""What every test shares: short folders for sockets, and an environment without other people's jobs."""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.folders import short_folder

# The same random cases at each run: whoever changes a line is not to be held up by a case that nobody has met before.
# `HYPOTHESIS_PROFILE=new .venv/bin/pytest` looks for such cases.
hypothesis.settings.register_profile("repeatable", derandomize=True, database=None)
hypothesis.settings.register_profile("new", hypothesis.settings.get_profile("default"))
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

JOB_VARIABLES = (
    "TORCH_WORKER_SERVER_SOCKET",
    "TORCHCTL_TOKEN",
    "TORCHCTL_SENTINEL",
    "TORCHCTL_TOKEN_FILE",
    "TORCHCTL_TLS_CERT",
    "TORCHCTL_TLS_KEY",
    "TORCHCTL_CA",
    "TORCHCTL_READ_ONLY",
    "TORCHCTL_JOB_ID",
    "TORCHCTL_WORKER_HOST",
    "TORCHCTL_WORKER_PORT",
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
    "COLUMNS",  # pytest-xdist sets it to its own terminal's width
)


JOBS = Path(__file__).with_name("live")  # real jobs
ALLOWED_SKIPS = Path(__file__).with_name("allowed_skips.txt")
_skips: list[tuple[str, str]] = []


def allowed_skips() -> set[str]:
    """Return the reasons for which a test may be skipped, from the committed list."""
    lines = ALLOWED_SKIPS.read_text().splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what waits the longest first, and keep together what shares a fixture that is dear to set up.

    Tests run beside each other (``make pytest``): a long one that begins last would be waited for alone.
    """
    items.sort(key=lambda item: not (item.path.is_relative_to(JOBS) or item.path.name.startswith("test_random")))
    for item in items:
        if _shared(item) and item.config.pluginmanager.hasplugin("xdist"):
            item.add_marker(pytest.mark.xdist_group(str(item.path)))


def _shared(item: pytest.Item) -> bool:
    """Whether a test uses a fixture that is set up once for its module."""
    by_name = item._fixtureinfo.name2fixturedefs if isinstance(item, pytest.Function) else {}
    return any(fixture.scope == "module" for fixtures in by_name.values() for fixture in fixtures)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        _skips.append((report.nodeid, str(report.longrepr[2]).removeprefix("Skipped: ")))


def pytest_sessionfinish(session: pytest.Session) -> None:
    # In each worker of pytest-xdist too, which counts its own tests alone; the run's exit code is the controller's.
    if any(reason not in allowed_skips() for _, reason in _skips):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """End with the skipped tests and their reasons; one whose reason is not in the list fails the run."""
    terminalreporter.section(f"skipped tests: {len(_skips)}")
    for nodeid, reason in _skips:
        known = "" if reason in allowed_skips() else f"NOT IN {ALLOWED_SKIPS.name}: "
        terminalreporter.write_line(f"{nodeid}: {known}{reason}")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for sockets, whatever the test's name."""
    with short_folder() as path:
        yield path


@pytest.fixture(autouse=True)
def own_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the test away from workers, jobs and settings of this machine; return its runtime folder."""
    for name in JOB_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    runtime = folder / "run"
    monkeypatch.setenv("TORCHCTL_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("TORCHCTL_SENTINEL", "0")  # a process more for each server of a test that is not about it
    monkeypatch.setenv("RES_OPTIONS", "attempts:0")  # TCPStore looks up names, and a lookup may stall
    return runtime


@pytest.fixture
def with_sentinel(own_environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the servers that the test's processes start have their sentinel, as they have by default."""
    monkeypatch.delenv("TORCHCTL_SENTINEL")
