"""Run all tests on this Python, and beside them those that need no torch, but for some long ones, on the others.

Each gets a virtual environment of its own under .venvs/, made once. A version that is not installed is said
so at the end: it is no failure.
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
VERSIONS = ("3.10", "3.11", "3.12", "3.13")


def find(version: str) -> str | None:
    """Return an interpreter of that version: on PATH, or among pyenv's."""
    candidates = [shutil.which(f"python{version}")]
    for root in (os.environ.get("PYENV_ROOT"), os.path.expanduser("~/.pyenv")):
        if root:
            candidates += sorted(glob.glob(f"{root}/versions/{version}.*/bin/python{version}"))
    return next((path for path in candidates if path and works(path, version)), None)


def works(path: str, version: str) -> bool:
    """Whether it starts, is that version, and can make virtual environments."""
    code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    result = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    return result.returncode == 0 and result.stdout.strip() == version


def environment(version: str, interpreter: str) -> Path:
    """Return the version's virtual environment, made when it is missing or older than pyproject.toml."""
    folder = ROOT / ".venvs" / version
    ready = folder / ".ready"
    if not ready.exists() or ready.stat().st_mtime < (ROOT / "pyproject.toml").stat().st_mtime:
        subprocess.run([interpreter, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin" / "pip"), "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, "-e", f"{ROOT}[test]"], check=True)
        ready.touch()
    return folder


def main(options: list[str]) -> int:
    """Run everything; `options` are pytest's, for this Python."""
    others = {version: found for version in VERSIONS if version != HERE and (found := find(version)) is not None}
    with ThreadPoolExecutor() as pool:  # before any test runs: installing keeps the disk busy for a minute
        folders = dict(zip(others, pool.map(environment, others, others.values()), strict=True))
    here = subprocess.Popen([sys.executable, "-m", "pytest", *options], cwd=ROOT)
    runs = {version: start(folder) for version, folder in folders.items()}
    outcomes = dict.fromkeys(VERSIONS, "not installed here")
    outcomes[HERE] = "passed" if here.wait() == 0 else "failed"
    for version, (process, output) in runs.items():
        code = process.wait()
        output.seek(0)
        print(f"== Python {version}: the tests that need no torch, without those of once\n{output.read()}", flush=True)
        output.close()
        outcomes[version] = "passed" if code == 0 else "failed"
    for version, outcome in outcomes.items():
        print(f"Python {version}: {outcome}")
    return 1 if "failed" in outcomes.values() else 0


def start(environment: Path) -> tuple[subprocess.Popen[bytes], IO[str]]:
    """Start the tests in a virtual environment; return the run and the file of its output."""
    output = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by main)
    python = environment / "bin" / "python"
    command = [str(python), "-m", "pytest", "-q", "-m", "not torch and not once", "-p", "no:cacheprovider"]
    run = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    return run, output


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
