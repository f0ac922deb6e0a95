"""Whom a worker command asks: the options that every one of them shares."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from torchctl import discovery, runtimedir
from torchctl.endpoint import Endpoint
from torchctl.errors import NoWorkersError


@dataclass(slots=True)
class Targets:
    """The options that every worker command shares.

    Attributes:
        sockets: paths or folders given with --socket.
        hosts: endpoints given with --host.
        ranks: the ranks given with --ranks; None means all.
        timeout_s: for the whole command, from the moment this object is made.
        as_json: print JSON instead of a table.
        deadline: when the timeout is over, in `time.monotonic` seconds.
    """

    sockets: tuple[str, ...] = ()
    hosts: tuple[Endpoint, ...] = ()
    ranks: list[int] | None = None
    timeout_s: float = 5.0
    as_json: bool = False
    deadline: float = field(init=False)

    def __post_init__(self) -> None:
        self.deadline = time.monotonic() + self.timeout_s

    def endpoints(self) -> list[Endpoint]:
        """Return whom the options name: --socket and --host, else the environment, else the runtime folder.

        Raises:
            NoWorkersError: nobody.
            RuntimeDirError: the runtime folder cannot be trusted.
        """
        named = [endpoint for path in self.sockets for endpoint in discovery.named_socket(path)]
        named += self.hosts
        found = list(dict.fromkeys(named or discovery.named_by_environment() or discovery.in_runtime_dir()))
        if not found:
            raise NoWorkersError(f"no worker found: {runtimedir.runtime_dir()} holds no socket")
        return found
