"""What the shell may offer for a word: live sockets, handler names. Quick, and silent whatever goes wrong."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Any

from click import Context, Parameter
from click.shell_completion import CompletionItem

from torchctl.workers import find
from torchctl.workers.endpoint import Endpoint

# Of the half second that a Tab may take, the interpreter's start has a good part.
_TIMEOUT_S = 0.25
_MAX_SOCKETS = 64


def socket_paths(incomplete: str) -> list[CompletionItem]:
    """Return the live workers' sockets that begin so, else leave it to the shell's own file names."""
    found: list[Endpoint] = []
    with contextlib.suppress(Exception):
        found = find.named_by_environment() + find.in_runtime_dir()
    live = [endpoint.path for endpoint in found[:_MAX_SOCKETS] if endpoint.path.startswith(incomplete)]
    items = [CompletionItem(path) for path in dict.fromkeys(live) if _listens(path)]
    return items or [CompletionItem(incomplete, type="file")]


def handler_names(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the names of the live workers' handlers that begin so."""
    with contextlib.suppress(Exception):
        return [CompletionItem(name) for name in _live_names(ctx.params) if name.startswith(incomplete)]
    return []


def _live_names(params: dict[str, Any]) -> list[str]:
    from torchctl.workers.ask.fanout import ask_all
    from torchctl.workers.questions.basic import ask_names
    from torchctl.workers.targets import Targets

    hosts = tuple(endpoint for endpoints in params.get("host") or () for endpoint in endpoints)
    token_file, ca = params.get("token_file") or "", params.get("ca") or ""
    targets = Targets(params.get("socket") or (), hosts, timeout_s=_TIMEOUT_S, token_file=token_file, ca=ca)
    outcomes = ask_all(targets.endpoints()[:_MAX_SOCKETS], ask_names, targets.deadline)
    return sorted({name for outcome in outcomes if outcome.value is not None for name in outcome.value.names})


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except BlockingIOError:
            return True  # alive, and busy
        except OSError:
            return False
        return True
