"""The workers that a command is for, as the operator typed them, before anything is looked up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torchctl import protocol
from torchctl.workers.endpoint import Endpoint

if TYPE_CHECKING:
    from torchctl.workers.ask.progress import Progress


@dataclass(frozen=True, slots=True)
class Targets:
    """The options that every worker command shares; `roll.find_workers` resolves them to workers.

    Attributes:
        sockets: paths or folders given with --socket.
        hosts: endpoints given with --host.
        ranks: the ranks given with --ranks; None means all.
        timeout_s: for the whole command.
        as_json: print JSON instead of a table.
        hostfiles: paths given with --hostfile.
        nodes: other hosts, given with --nodes; `via` is how they are reached, `remote` is torchctl's path there.
        pids: processes without a server, given with --pid.
        user: a user name, or "all": use the workers in their runtime folders.
        store: host and port of the job's TCPStore, given with --store; `prefix` is the prefix of its keys.
        trust_store: send the token to workers that the store names.
        token_file: path of the file with the token, "" for none.
        ca: path of the CA certificates that verify TCP workers over TLS; "" for plain HTTP.
        job: only workers of this job.
        jobs: how many workers are asked at a time; None for all.
        progress: shows progress while asking; None if no one watches.
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

    def names_any(self) -> bool:
        """Return whether the operator said where the workers are."""
        return bool(self.sockets or self.hosts or self.hostfiles or self.pids or self.user or self.store or self.nodes)
