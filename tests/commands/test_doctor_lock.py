"""`torchctl doctor` of a process that answers: what its main thread waits for, and who holds it."""

import json
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.eventually import wait_until
from tests.processes import running
from torchctl.cli import cli

SCRIPT = """import queue
import threading


class Saver:
    def __init__(self) -> None:
        self.lock = threading.{lock}()
        self.queue = queue.Queue(maxsize=1)
        self.queue.put(None)
        self.held = threading.Event()

    def write(self) -> None:
        with self.lock:
            self.held.set()
            self.queue.put("state")

    def save(self) -> None:
        self.held.wait()
        print("ready", flush=True)
        with self.lock:
            pass


saver = Saver()
threading.Thread(target=saver.write, name="writer", daemon=True).start()
saver.save()
"""
HELD = """  MainThread (0x7)
      ... 5 frames of Python startup
      FOLDER/train.py:26 in <module>
          saver.save()
    > FOLDER/train.py:20 in save
          with self.lock:
      in {lock} (with self.lock), held by thread writer
  writer (0x7)
      ... 3 frames of Python startup
    > FOLDER/train.py:15 in write
          self.queue.put("state")
      queue.py:1 in put
      threading.py:1 in wait
      in Queue.put()"""


@pytest.mark.parametrize("lock", ["RLock", "Lock"])
def test_the_holder_of_a_lock_is_shown_below_who_waits_for_it(folder: Path, own_environment: Path, lock: str) -> None:
    (folder / "train.py").write_text(SCRIPT.format(lock=lock))
    place = {"TORCHCTL_RUNTIME_DIR": str(own_environment), "TORCHCTL_SENTINEL": "0"}
    with running([sys.executable, "-m", "torchctl.server", str(folder / "train.py")], place) as process:
        process.wait_for("ready")

        def doctor(*options: str) -> str:
            return CliRunner().invoke(cli, ["doctor", str(process.pid), "--timeout", "30", *options]).stdout

        wait_until(lambda: "held by" in doctor(), 60)
        shown, document = doctor(), json.loads(doctor("--json"))
    begin = shown.index("  MainThread")
    likened = re.sub(r"\b0x[0-9a-f]+", "0x7", shown[begin:].replace(str(folder), "FOLDER"))
    likened = re.sub(r"(queue|threading)\.py:\d+", r"\1.py:1", likened)
    assert likened.splitlines() == HELD.format(lock=lock).splitlines()
    calls = {one["name"]: one["call"] for one in document["stacks"]["threads"]}
    assert calls["MainThread"] == f"{lock} (with self.lock), held by thread writer"
    assert calls["writer"] == "Queue.put()"
