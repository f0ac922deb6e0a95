"""Which workers a command is for: what the operator typed, before anything is looked up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torchctl import protocol
from torchctl.workers.endpoint import Endpoint

if TYPE_CHECKING:
    from torchctl.workers.ask.progress import Progress


@dataclass(frozen=True, slots=True)
class Targets:
    """The options that every worker command shares; `roll.find_workers` looks up whom they lead to.

    Attributes:
        sockets: paths or folders given with --socket.
        hosts: endpoints given with --host.
        ranks: the ranks given with --ranks; None means all.
        timeout_s: for the whole command.
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
        progress: shows how far the asking has come; None if no one watches.
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
        """Whether the operator said where the workers are."""
        return bool(self.sockets or self.hosts or self.hostfiles or self.pids or self.user or self.store or self.nodes)
