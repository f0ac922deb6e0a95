"""A skipped test is named at the end, and fails the run if its reason is not in the committed list."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import allowed_skips

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("beside", [[], ["-n", "2"]], ids=["one process", "processes beside each other"])
@pytest.mark.parametrize("known", [True, False])
def test_a_skip_is_named_and_one_for_an_unknown_reason_fails_the_run(
    folder: Path, beside: list[str], known: bool
) -> None:
    reason = sorted(allowed_skips())[0] if known else "no time for it"
    module = folder / "test_skipped.py"
    module.write_text(f"import pytest\ndef test_it(): pytest.skip({reason!r})\ndef test_other(): pass\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider", *beside]
    command += ["-c", "/dev/null", "--rootdir", str(folder), str(module)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=200)
    told = "" if known else "NOT IN allowed_skips.txt: "
    assert "skipped tests: 1 =" in result.stdout
    assert f"test_skipped.py::test_it: {told}{reason}\n" in result.stdout
    assert result.returncode == (0 if known else 1), result.stdout
