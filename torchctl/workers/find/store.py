"""Workers registered in a job's TCPStore by torchctl's server or by torch's own debug server.

How this works: a `storeutil.session` checks that the port answers, loads torch, and limits how long its client blocks.
The keys are listed (torch 2.11), or asked for one by one; it never waits for a missing key.

Anyone on the job's network can write to a store, so its addresses are checked and do not receive the token. If the
operator trusts the store they do, but only over verified TLS or on loopback.

Source: torch/distributed/debug/__init__.py and _store.py (torch 2.13) for keys and values.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, replace

from torchctl import protocol
from torchctl.errors import NoWorkersError, StoreError, WorkerError
from torchctl.storeutil.interface import OperatorStore
from torchctl.storeutil.operator.reading import list_keys, read_values
from torchctl.storeutil.operator.session import StoreSession, import_torch
from torchctl.text import host_port
from torchctl.workers.endpoint import Endpoint, is_loopback, parse_endpoint

_URL = re.compile(r"http(s?)://(\S+:\d{1,5})")
_MAX_RANKS = 200_000
_PROBED_RANKS = 4096  # how many ranks to ask for one by one if keys cannot be listed
_LEAST_S = 0.1  # allowed for a store, however little time is left
_GAP = 512  # stop after this many missing ranks in a row


class BadAddressError(WorkerError):
    """The store has an address that is neither ``http://HOST:PORT`` nor ``https://HOST:PORT``."""

    kind = "bad_address"
    hint = "something else wrote this key; give the worker with --host"


@dataclass(frozen=True, slots=True)
class Registered:
    """The workers that a store names.

    Attributes:
        endpoints: workers to ask.
        errors: entries that cannot be asked.
        loading_s: how long torch took to load, which does not count against the workers.
    """

    endpoints: list[Endpoint]
    errors: list[WorkerError]
    loading_s: float = 0.0


def read_store(
    store: tuple[str, int], prefix: str, deadline: float, *, trusted: bool = False, ca: str = ""
) -> Registered:
    """Return the workers registered in a TCPStore, by rank.

    Args:
        store: its host and port.
        prefix: prefix of the keys; torch's own is ``debug_server``.
        deadline: `time.monotonic` seconds; loading torch is not counted.
        trusted: the operator allows sending the token to these workers, over TLS or on loopback.
        ca: path of the CA certificates that verify workers with https addresses.

    Raises:
        NoWorkersError: no worker is registered.
        StoreUnreachableError, StoreTimeoutError: there is no store, or it does not answer.
        StoreError: torch is missing, or the keys cannot be read.
    """
    session = StoreSession(*store)
    session.probe(max(_LEAST_S, deadline - time.monotonic()))
    began = time.monotonic()
    import_torch(debug=False)
    loading_s = time.monotonic() - began
    left = max(_LEAST_S, deadline + loading_s - time.monotonic())
    found = session.run(lambda client, _: _entries(client, prefix), limit_s=left)
    if not found:
        raise NoWorkersError(
            f"no worker is registered in the store {host_port(*store)} under {prefix}/",
            hint="a worker registers when its server listens on TCP: set TORCHCTL_WORKER_PORT in the job's environment",
        )
    return Registered(*_checked(found, host_port(*store), prefix, trusted, ca), loading_s)


def _checked(
    found: dict[int, tuple[str, str]], store: str, prefix: str, trusted: bool, ca: str
) -> tuple[list[Endpoint], list[WorkerError]]:
    endpoints, errors = [], list[WorkerError]()
    for rank, (value, about) in sorted(found.items()):
        match = _URL.fullmatch(value)
        try:
            if match is None:
                raise ValueError("it is not http://HOST:PORT")
            endpoint = parse_endpoint(match[2])
            if match[1] and not ca:
                raise ValueError("it uses TLS; give the CA of its certificate with --ca")
        except ValueError as error:
            detail = f"names {value[:200]!r} for it: {error}"
            errors.append(BadAddressError(detail, endpoint=f"{store} {prefix}/rank{rank}", rank=rank))
            continue
        endpoint = replace(endpoint, rank=rank, ca=ca if match[1] else "", process=_process(about, value))
        endpoints.append(replace(endpoint, untrusted=not (trusted and (endpoint.ca or is_loopback(endpoint.host)))))
    return endpoints, errors


def _process(about: str, url: str) -> tuple[int, float] | None:
    """Return the pid and start time of the process that registered this address, or None if it did not say."""
    try:
        document = json.loads(about)
        if document["url"] != url:
            return None
        return int(document["pid"]), float(document["start_time"])
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None


def _entries(client: OperatorStore, prefix: str) -> dict[int, tuple[str, str]]:
    """Return, per rank, the registered address and its description ("" if there is none)."""
    ranks = _ranks(client, prefix)
    values = read_values(
        client, [f"{prefix}/{begin}{rank}" for rank in ranks for begin in ("rank", protocol.STORE_ABOUT)]
    )
    said = {key: value.decode("utf-8", "replace") for key, value in values.items()}
    return {
        rank: (said[key], said.get(f"{prefix}/{protocol.STORE_ABOUT}{rank}", ""))
        for rank in ranks
        if (key := f"{prefix}/rank{rank}") in said
    }


def _ranks(client: OperatorStore, prefix: str) -> list[int]:
    try:
        pattern = re.compile(re.escape(prefix) + r"/rank(\d{1,9})")
        matches = (pattern.fullmatch(key) for key in list_keys(client))
        return sorted(int(match[1]) for match in matches if match)[:_MAX_RANKS]
    except StoreError:  # an older torch on either side, or a foreign key that is not text
        pass
    found: list[int] = []
    for rank in range(_PROBED_RANKS):
        if client.check([f"{prefix}/rank{rank}"]):
            found.append(rank)
        elif rank - (found[-1] if found else 0) > _GAP:
            break
    return found
