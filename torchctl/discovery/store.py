"""Workers that a job's TCPStore names: registered by torchctl's server or by torch's own debug server.

How this works: the port is asked for a sign of life in the store's own words, since torch's client waits for ever for
anything else that listens there. Then torch is loaded and the keys are listed (torch 2.11), or asked for one by one;
a key that is absent is never waited for. All of it happens on a daemon thread, since torch's client hears neither a
deadline nor Ctrl-C while it blocks.

A store is written by anybody in the job's network: its addresses are checked, and get no token.

Source: torch/distributed/debug/__init__.py and _store.py (torch 2.13) for keys and values.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from torchctl import protocol
from torchctl.endpoint import Endpoint, parse_host_port
from torchctl.errors import NoWorkersError, TorchctlError, WorkerError
from torchctl.storeutil.probe import NotAStoreError, probe_store

_URL = re.compile(r"http://(\S+:\d{1,5})")
_MAX_RANKS = 200_000
_PROBED_RANKS = 4096  # asked for one by one where keys cannot be listed
_GAP = 512  # absent ranks in a row that end that


class BadAddressError(WorkerError):
    """The store names something that is no ``http://HOST:PORT``."""

    kind = "bad_address"
    hint = "somebody else wrote this key; name the worker with --host"


@dataclass(frozen=True, slots=True)
class Registered:
    """What a store names: workers to ask, and entries that cannot be asked."""

    endpoints: list[Endpoint]
    errors: list[WorkerError]


def read_store(store: Endpoint, prefix: str, deadline: float, *, trusted: bool = False) -> Registered:
    """Return the workers registered in a TCPStore, by rank.

    Args:
        store: its address.
        prefix: of the keys; torch's own is ``debug_server``.
        deadline: `time.monotonic` seconds.
        trusted: the operator lets these workers have the token.

    Raises:
        NoWorkersError: nobody is registered.
        TorchctlError: there is no store, it does not answer, or torch is missing.
    """
    outcome: list[dict[int, tuple[str, str]] | BaseException] = []
    done = threading.Event()

    def work() -> None:
        try:
            outcome.append(_entries(store, prefix, deadline))
        except BaseException as error:
            outcome.append(error)
        done.set()

    threading.Thread(target=work, name="torchctl-store", daemon=True).start()
    if not done.wait(max(0.0, deadline - time.monotonic())):
        hint = "the process that hosts it may be stopped: look at rank 0, or the agent on its host"
        raise TorchctlError(f"the store {store} gave no answer before the deadline", hint=hint)
    found = outcome[0]
    if isinstance(found, TorchctlError):
        raise found
    if isinstance(found, BaseException):
        raise TorchctlError(f"the store {store} cannot be read: {str(found).splitlines()[0][:300]}") from found
    if not found:
        raise NoWorkersError(
            f"no worker is registered in the store {store} under {prefix}/",
            hint="a worker registers when its server listens on TCP: set TORCHCTL_WORKER_PORT in the job's environment",
        )
    return _checked(found, store, prefix, trusted)


def _checked(found: dict[int, tuple[str, str]], store: Endpoint, prefix: str, trusted: bool) -> Registered:
    endpoints, errors = [], list[WorkerError]()
    for rank, (value, about) in sorted(found.items()):
        match = _URL.fullmatch(value)
        try:
            if match is None:
                raise ValueError("it is not http://HOST:PORT")
            endpoint = parse_host_port(match[1])
        except ValueError as error:
            detail = f"names {value[:200]!r} for it: {error}"
            errors.append(BadAddressError(detail, endpoint=f"{store} {prefix}/rank{rank}", rank=rank))
            continue
        endpoints.append(replace(endpoint, rank=rank, untrusted=not trusted, process=_process(about, value)))
    return Registered(endpoints, errors)


def _process(about: str, url: str) -> tuple[int, float] | None:
    """Return pid and start time of the process that registered this address, None where nobody told."""
    try:
        document = json.loads(about)
        if document["url"] != url:
            return None
        return int(document["pid"]), float(document["start_time"])
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None


def _entries(store: Endpoint, prefix: str, deadline: float) -> dict[int, tuple[str, str]]:
    """Return, per rank, the registered address and what was said about it ("" nothing)."""
    address = _probe(store, deadline)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # its client prints C++ errors of many lines
    try:
        from torch.distributed import TCPStore
    except ImportError as error:
        hint = "pip install 'torchctl[torch]', or name the workers with --host"
        raise TorchctlError("reading a store needs torch, and it is not installed", hint=hint) from error
    left = max(0.1, deadline - time.monotonic())
    client = TCPStore(
        host_name=address, port=store.port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=left)
    )
    ranks = _ranks(client, prefix)
    keys = [f"{prefix}/rank{rank}" for rank in ranks]
    told = [f"{prefix}/{protocol.STORE_ABOUT}{rank}" for rank in ranks]
    about = {key for key in told if client.check([key])}
    values = [value.decode("utf-8", "replace") for value in client.multi_get([*keys, *about])] if keys else []
    named = dict(zip([*keys, *about], values, strict=True))
    return {rank: (named[key], named.get(tell, "")) for rank, key, tell in zip(ranks, keys, told, strict=True)}


def _ranks(client: Any, prefix: str) -> list[int]:
    if hasattr(client, "list_keys"):
        pattern = re.compile(re.escape(prefix) + r"/rank(\d{1,9})")
        matches = (pattern.fullmatch(key) for key in client.list_keys())
        return sorted(int(match[1]) for match in matches if match)[:_MAX_RANKS]
    found: list[int] = []
    for rank in range(_PROBED_RANKS):
        if client.check([f"{prefix}/rank{rank}"]):
            found.append(rank)
        elif rank - (found[-1] if found else 0) > _GAP:
            break
    return found


def _probe(store: Endpoint, deadline: float) -> str:
    """Return the numeric address at which a TCPStore answers."""
    try:
        return probe_store(store.host, store.port, max(0.1, deadline - time.monotonic()))
    except OSError as error:
        if isinstance(error, NotAStoreError):
            raise TorchctlError(str(error)) from error
        raise TorchctlError(
            f"the store {store} cannot be reached: {error.strerror or error}",
            hint="it is at the job's MASTER_ADDR and MASTER_PORT",
        ) from error
