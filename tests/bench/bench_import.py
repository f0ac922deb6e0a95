"""What `import torchctl.server` costs inside a trainer, bare or with torch; two of Python's own servers beside it."""

from __future__ import annotations

import importlib.util
import json
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

ROUNDS = 5
SUBJECTS = ("socketserver", "http.server", "torchctl.server")
_MEASURE = """
import json, sys, time
for name in {before!r}: __import__(name)
def private_kib():
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_"))
private_kib()
modules, kib, began = set(sys.modules), private_kib(), time.perf_counter()
__import__({subject!r})
took = time.perf_counter() - began
print(json.dumps([len(set(sys.modules) - modules), (private_kib() - kib) / 1024, took * 1000]))
"""


def measure(subject: str, before: list[str]) -> list[float]:
    """Return how many modules, MiB of private memory and milliseconds the import brings."""
    runs = []
    for _ in range(ROUNDS):
        command = [sys.executable, "-c", _MEASURE.format(subject=subject, before=before)]
        runs.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    return [statistics.median(column) for column in zip(*runs, strict=True)]


def main() -> None:
    bases: dict[str, list[str]] = {"a bare interpreter": []}
    if importlib.util.find_spec("torch") is not None:
        bases["one with torch"] = ["torch"]
    for base, before in bases.items():
        print(f"import, over {base} (median of {ROUNDS})")
        for subject in SUBJECTS:
            modules, mib, took_ms = measure(subject, before)
            print(f"  {subject:32} {modules:4.0f} modules   {mib:5.1f} MiB   {took_ms:6.1f} ms", flush=True)


if __name__ == "__main__":
    main()
