"""Shell completion for socket paths with a listening worker. It is fast, and silent whatever goes wrong."""

from __future__ import annotations

import contextlib
import os
import socket

from click.shell_completion import CompletionItem

from torchctl.workers import find
from torchctl.workers.endpoint import Endpoint

_MAX_SOCKETS = 64


def socket_paths(incomplete: str) -> list[CompletionItem]:
    """Return the live workers' sockets that match what was typed, else let the shell complete file names."""
    found: list[Endpoint] = []
    with contextlib.suppress(Exception):
        found = find.named_by_environment() + find.in_runtime_dir()
    live = [endpoint.path for endpoint in found[:_MAX_SOCKETS] if endpoint.path.startswith(incomplete)]
    items = [CompletionItem(path) for path in dict.fromkeys(live) if _listens(path)]
    return items or [CompletionItem(incomplete, type="file")]


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except BlockingIOError:
            return True  # alive, but busy
        except OSError:
            return False
        return True
