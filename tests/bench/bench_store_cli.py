"""What `torchctl barrier` and `torchctl store keys` cost beside an import of torch and bare store calls.

Every pair is measured in one run, in turns. Prints medians and the spread; asserts nothing.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

os.environ["RES_OPTIONS"] = "attempts:0"
os.environ["TORCH_CPP_LOG_LEVEL"] = "FATAL"
REPS = 15


def spread(times: list[float]) -> str:
    return f"{statistics.median(times):8.1f} ms [{min(times):7.1f} .. {max(times):7.1f}]"


def timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def joined_ms(server: Any, number: int) -> float:
    """Time from starting `torchctl barrier` until it has been counted, then let it go."""
    prefix = f"b{number}/"
    command = [
        sys.executable, "-m", "torchctl", "barrier", "--store", f"127.0.0.1:{server.port}",
        "--world-size", "2", "--key-prefix", prefix,
    ]  # fmt: skip
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        server.wait([prefix + "/num_members"], timedelta(seconds=30))
        taken = (time.perf_counter() - start) * 1e3
        server.set(prefix + "/last_member", "")
    return taken


def start_up(server: Any) -> None:
    bare = [sys.executable, "-c", "import torch.distributed"]
    typo = [sys.executable, "-m", "torchctl", "barrier", "--store", "127.0.0.1:1", "--world-size", "2"]
    ours, imports, typos = [], [], []
    for number in range(REPS):
        ours.append(joined_ms(server, number))
        imports.append(timed(lambda: subprocess.run(bare, check=True)))
        typos.append(timed(lambda: subprocess.run(typo, stderr=subprocess.DEVNULL)))
    ratio = statistics.median(ours) / statistics.median(imports)
    print(f"torchctl barrier ... until joined           {spread(ours)}")
    print(f"python -c 'import torch.distributed'        {spread(imports)}  ratio of medians {ratio:.2f}")
    print(f"torchctl barrier --store 127.0.0.1:1 (typo) {spread(typos)}", flush=True)


def keys(server: Any, title: str, names: list[str]) -> None:
    from torchctl.storeutil.operator.families import describe, sort_keys, wanted_values
    from torchctl.storeutil.operator.reading import list_keys, read_values

    for key in server.list_keys():
        server.delete_key(key)
    for name in names:
        server.set(name, "3")

    def bare() -> None:
        server.multi_get(server.list_keys())

    def grouped() -> None:
        found = sort_keys(list_keys(server))
        describe(found, read_values(server, wanted_values(found)))

    ours, floor = [], []
    for _ in range(REPS):
        floor.append(timed(bare))
        ours.append(timed(grouped))
    ratio = statistics.median(ours) / statistics.median(floor)
    print(f"{len(names)} keys, {title}: collected and grouped {spread(ours)}")
    print(f"    list_keys and one multi_get {spread(floor)}  ratio of medians {ratio:.2f}", flush=True)


def main() -> None:
    from torch.distributed import TCPStore

    print(f"$ python {' '.join(sys.argv)}")
    print(f"cpus {os.cpu_count()}, load {os.getloadavg()[0]:.2f}")
    server = TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=60), wait_for_workers=False)
    start_up(server)
    job = [f"job/data/rank{i}" for i in range(5000)] + [f"default_pg/0//cpu//0/{i}" for i in range(1000)]
    job += [f"epoch{i}/last_member" for i in range(1000)] + [f"epoch{i}/num_members" for i in range(1000)]
    job += [f"epoch7/{i}/TRACE" for i in range(2000)]
    keys(server, "a job's", job)
    keys(server, "no two alike", [f"user/{i:x}/state" for i in range(10_000)])


if __name__ == "__main__":
    main()
