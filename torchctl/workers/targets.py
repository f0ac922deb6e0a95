"""Whom a worker command asks: the options that every one of them shares."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from torchctl import protocol
from torchctl.errors import NoWorkersError, WorkerError
from torchctl.protocol import runtimedir
from torchctl.workers import find
from torchctl.workers.endpoint import RUNTIME_FOLDER, Endpoint

if TYPE_CHECKING:
    from torchctl.workers.ask.fanout import Progress


@dataclass(slots=True)
class Targets:
    """The options that every worker command shares.

    Attributes:
        sockets: paths or folders given with --socket.
        hosts: endpoints given with --host.
        ranks: the ranks given with --ranks; None means all.
        timeout_s: for the whole command, from the moment this object is made.
        as_json: print JSON instead of a table.
        hostfiles: paths given with --hostfile.
        nodes: other hosts, given with --nodes; `via` is how they are reached, `remote` torchctl's path there.
        pids: processes without a server, given with --pid.
        user: a user's name, or "all": the workers of their runtime folders.
        store: host and port of the job's TCPStore, given with --store; `prefix` of its keys.
        trust_store: the workers that the store names get the token.
        token_file: path of the file with the token, "" for none.
        ca: path of the authorities that vouch for workers on TCP, which are then spoken to in TLS; "" for plain HTTP.
        job: only workers of this job.
        jobs: how many workers are asked at a time; None for all.
        progress: told how far the asking has come; None for nobody.
        errors: what a source named that cannot be asked; filled by `endpoints`.
        deadline: when the timeout is over, in `time.monotonic` seconds.
    """

    sockets: tuple[str, ...] = ()
    hosts: tuple[Endpoint, ...] = ()
    ranks: list[int] | None = None
    timeout_s: float = 5.0
    as_json: bool = False
    hostfiles: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    via: str = "ssh"
    remote: str = "torchctl"
    pids: tuple[int, ...] = ()
    user: str | None = None
    store: tuple[str, int] | None = None
    prefix: str = protocol.STORE_PREFIX
    trust_store: bool = False
    token_file: str = ""
    ca: str = ""
    job: str | None = None
    jobs: int | None = None
    progress: Progress | None = None
    deadline: float = field(init=False)
    errors: list[WorkerError] = field(init=False, default_factory=list)
    _found: list[Endpoint] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.deadline = time.monotonic() + self.timeout_s

    def until(self, deadline: float) -> Targets:
        """Return the same targets with another deadline, `time.monotonic` seconds."""
        other = copy.copy(self)
        other.deadline = deadline
        return other

    def only(self, endpoints: list[Endpoint]) -> Targets:
        """Return the same targets, narrowed to workers that were asked before; their ranks are no longer a question."""
        other = copy.copy(self)
        other._found, other.ranks = [one for one in endpoints if not one.node], None
        other.nodes = tuple(dict.fromkeys(one.node for one in endpoints if one.node))
        return other

    def names_any(self) -> bool:
        """Whether the operator said where the workers are."""
        return bool(self.sockets or self.hosts or self.hostfiles or self.pids or self.user or self.store or self.nodes)

    def endpoints(self) -> list[Endpoint]:
        """Return whom the options name: --socket, --host and the like, else the environment, else the runtime folder.

        Raises:
            NoWorkersError: nobody.
            RuntimeDirError: the runtime folder cannot be trusted.
        """
        if self._found is None:
            self._found = self._look()
        return self._found

    def _look(self) -> list[Endpoint]:
        named = _from("--socket", (endpoint for path in self.sockets for endpoint in find.named_socket(path)))
        named += _from("--host", self.hosts)
        if self.hostfiles:
            from torchctl.workers.find.hostfile import read_hostfile

            named += _from("--hostfile", (endpoint for path in self.hostfiles for endpoint in read_hostfile(path)))
        if self.ca:
            named = [replace(endpoint, ca=self.ca) if endpoint.host else endpoint for endpoint in named]
        if self.store is not None:
            from torchctl.workers.find.store import read_store

            registered = read_store(self.store, self.prefix, self.deadline, trusted=self.trust_store, ca=self.ca)
            self.deadline += registered.loading_s
            named += _from("--store", registered.endpoints)
            self.errors = registered.errors
        if self.user is not None:
            from torchctl.workers.find.users import in_runtime_dirs_of

            named += _from("--user", in_runtime_dirs_of(self.user))
        named += _from("--pid", (Endpoint(pid=pid) for pid in self.pids))
        named = self._with_token(named)
        if self.names_any():
            found = list(dict.fromkeys(named))
        else:
            found = _from(protocol.SOCKET_VARIABLE, find.named_by_environment())
            found = found or _from(RUNTIME_FOLDER, find.in_runtime_dir())
        if not found and not self.nodes:
            raise NoWorkersError(f"no worker found: {runtimedir.runtime_dir()} holds no socket")
        return found

    def _with_token(self, endpoints: list[Endpoint]) -> list[Endpoint]:
        """Give the workers on TCP the token of --token-file, and look whether --ca can be used.

        Raises:
            TorchctlError: one of the two files cannot be used.
        """
        if not any(endpoint.host for endpoint in endpoints):
            return endpoints
        if self.ca:
            from torchctl.workers.ask.tls import context

            context(self.ca)
        if not self.token_file:
            return endpoints
        from torchctl.protocol.secretfile import read_token_file

        token = read_token_file(self.token_file)
        return [replace(endpoint, token=token) if endpoint.host else endpoint for endpoint in endpoints]

    def names_one(self, endpoints: Sequence[Endpoint]) -> bool:
        """Whether the operator named this one worker: then nobody else is missed."""
        return len(endpoints) == 1 and bool(self.sockets or self.hosts or self.pids)


def _from(source: str, endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    return [replace(endpoint, source=source) for endpoint in endpoints]
