"""The workers that the targets resolve to: looked up once, then asked as often as a report needs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torchctl import protocol
from torchctl.errors import NoWorkersError, WorkerError
from torchctl.protocol import runtimedir
from torchctl.workers import find
from torchctl.workers.endpoint import RUNTIME_FOLDER, Endpoint
from torchctl.workers.targets import Targets


@dataclass(frozen=True, slots=True)
class Roll:
    """The workers that a survey goes through.

    Attributes:
        targets: what the operator typed.
        endpoints: the workers found, hosts from --nodes last.
        errors: workers that a source named but that cannot be asked.
        deadline: `time.monotonic` seconds.
        ranks: only these are asked; None for all.
    """

    targets: Targets
    endpoints: list[Endpoint]
    errors: list[WorkerError]
    deadline: float
    ranks: list[int] | None

    @property
    def names_one(self) -> bool:
        """Return whether the operator named exactly one worker, so that no other can be missing."""
        named = self.targets.sockets or self.targets.hosts or self.targets.pids
        return len(self.endpoints) == 1 and bool(named)

    def until(self, deadline: float) -> Roll:
        """Return the same roll with another deadline, `time.monotonic` seconds."""
        return replace(self, deadline=deadline)

    def only(self, endpoints: Sequence[Endpoint]) -> Roll:
        """Return the same roll, narrowed to workers that were asked before, without selecting by rank again."""
        here = [one for one in endpoints if not one.node]
        return replace(self, endpoints=here + _hosts(one.node for one in endpoints if one.node), ranks=None)


def find_workers(targets: Targets) -> Roll:
    """Find the workers named by the options (--socket, --host ...), else the environment, else the runtime folder.

    The timeout of the whole command starts here.

    Raises:
        NoWorkersError: there are no workers.
        RuntimeDirError: the runtime folder cannot be trusted.
    """
    deadline = time.monotonic() + targets.timeout_s
    named = _from("--socket", (endpoint for path in targets.sockets for endpoint in find.named_socket(path)))
    named += _from("--host", targets.hosts)
    if targets.hostfiles:
        from torchctl.workers.find.hostfile import read_hostfile

        named += _from("--hostfile", (endpoint for path in targets.hostfiles for endpoint in read_hostfile(path)))
    if targets.ca:
        named = [replace(endpoint, ca=targets.ca) if endpoint.host else endpoint for endpoint in named]
    errors: list[WorkerError] = []
    if targets.store is not None:
        from torchctl.workers.find.store import read_store

        registered = read_store(targets.store, targets.prefix, deadline, trusted=targets.trust_store, ca=targets.ca)
        deadline += registered.loading_s
        named += _from("--store", registered.endpoints)
        errors = registered.errors
    if targets.user is not None:
        from torchctl.workers.find.users import in_runtime_dirs_of

        named += _from("--user", in_runtime_dirs_of(targets.user))
    named += _from("--pid", (Endpoint(pid=pid) for pid in targets.pids))
    named = _with_token(targets, named)
    if targets.names_any():
        found = list(dict.fromkeys(named)) + _hosts(targets.nodes)
    else:
        found = _from(protocol.SOCKET_VARIABLE, find.named_by_environment())
        found = found or _from(RUNTIME_FOLDER, find.in_runtime_dir())
    if not found:
        raise NoWorkersError(f"no worker found: {runtimedir.runtime_dir()} has no sockets")
    return Roll(targets, found, errors, deadline, targets.ranks)


def _from(source: str, endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    return [replace(endpoint, source=source) for endpoint in endpoints]


def _hosts(nodes: Iterable[str]) -> list[Endpoint]:
    return [Endpoint(node=node, source="--nodes") for node in dict.fromkeys(nodes)]


def _with_token(targets: Targets, endpoints: list[Endpoint]) -> list[Endpoint]:
    """Give TCP workers the token from --token-file, and check that --ca can be used.

    Raises:
        TorchctlError: one of the two files cannot be used.
    """
    if not any(endpoint.host for endpoint in endpoints):
        return endpoints
    if targets.ca:
        from torchctl.workers.ask.tls import context

        context(targets.ca)
    if not targets.token_file:
        return endpoints
    from torchctl.protocol.secretfile import read_token_file

    token = read_token_file(targets.token_file)
    return [replace(endpoint, token=token) if endpoint.host else endpoint for endpoint in endpoints]
