"""torch's own C++ worker server on a private socket: it returns traces even while the interpreter lock is held."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from torchctl.server.guest.loaded import c10d


class Native:
    """The running server; `path` is its socket, in a folder that only our user can enter."""

    def __init__(self, server: Any, folder: str, path: str) -> None:
        self.path = path
        self._server = server
        self._folder = folder

    def stop(self) -> None:
        """End it and remove its folder."""
        import shutil  # late, like `tempfile` below: torch has already loaded both

        with contextlib.suppress(Exception):
            self._server.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)


def start() -> Native | None:
    """Start torch's server; return None if torch is not loaded or has none.

    Source: torch/csrc/distributed/c10d/control_plane/WorkerServer.cpp (torch 2.13).
    """
    kind = getattr(c10d(), "_WorkerServer", None)
    if kind is None:
        return None
    import shutil
    import tempfile

    folder = tempfile.mkdtemp(prefix="torchctl-native-")
    path = os.path.join(folder, "s")
    try:
        return Native(kind(path), folder, path)
    except Exception:  # whatever torch raises: the traces are optional
        shutil.rmtree(folder, ignore_errors=True)
        return None
