"""The script of every scenario's ranks: the environment variable SCENARIO names the function, FOLDER the test's folder.

A rank prints nothing, and creates FOLDER/at-RANK when it has come to the end of what it can do by itself: the test
waits for these markers, never for a time.
"""

import importlib
import os
from datetime import timedelta

import torch.distributed as dist

THEMES = ("own_code", "groups", "p2p", "threads", "stores", "ends", "libraries", "healthy")
WITHOUT_GROUPS = ("missing_at_the_start", "remote_call", "remote_calls")


def main() -> None:
    name = os.environ["SCENARIO"]
    modules = [importlib.import_module(f"tests.live.scenarios.{theme}") for theme in THEMES]
    (scenario,) = (found for module in modules if (found := getattr(module, name, None)) is not None)
    if name not in WITHOUT_GROUPS:
        timeout_s = os.environ.get("TIMEOUT_S")
        dist.init_process_group("gloo", timeout=timedelta(seconds=float(timeout_s)) if timeout_s else None)
    scenario()


if __name__ == "__main__":
    main()
