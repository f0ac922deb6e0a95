"""The line that shows a wait."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

from tests.storejobs import environment
from tests.stores import DEADLINE_S

CODE = """
import fcntl, struct, sys, termios
fcntl.ioctl(2, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
from torchctl.render.waiting import WaitLine
line = WaitLine()
line.show("published 1 of 100, missing " + ",".join(map(str, range(0, 100, 2))), 1)
line.show("published 99 of 100, missing 3", 2)
line.close()
"""


def test_a_line_is_never_wider_than_the_screen() -> None:
    master, slave = pty.openpty()
    env = {key: value for key, value in environment().items() if key not in ("COLUMNS", "LINES")}
    try:
        subprocess.run(
            [sys.executable, "-c", CODE],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=env,
            timeout=DEADLINE_S,
            check=True,
        )
        shown = os.read(master, 4096).decode()
    finally:
        os.close(master)
        os.close(slave)
    first, second = shown.rstrip().split("\r")[1:3]
    assert first.endswith("..., 1s") and len(first) == 39
    assert second.rstrip() == "published 99 of 100, missing 3, 2s"
