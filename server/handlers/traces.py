"""torch's flight recorders, NCCL's and the generic one, as pickle and JSON; and its wait counters.

Names, parameters and refusals follow torch's C++ handlers; the bytes are torch's own, untouched. torch's
handlers for the NCCL recorder cannot be called from Python, so these call torch's bindings. A process that has not
loaded torch has recorded nothing and answers with an empty trace; we never make it load torch.

Source: torch/csrc/distributed/c10d/FlightRecorder.hpp and init.cpp (torch 2.13).
"""

from __future__ import annotations

from typing import Any

from torchctl import protocol
from torchctl.server.guest import torchlink
from torchctl.server.guest.loaded import c10d, loaded
from torchctl.server.handlers.parameters import booleans, check_names
from torchctl.server.refusal import Refusal
from torchctl.server.request import Request, Response

# What torch's recorder returns before it has recorded anything.
EMPTY: dict[str, Any] = {"version": "2.10", "pg_config": {}, "pg_status": {}, "comm_lib_version": "", "entries": []}


def dump_nccl_trace_pickle(request: Request, response: Response) -> None:
    """Answer with the NCCL recorder's entries, pickled; without NCCL, with the generic recorder's.

    Parameters: includecollectives, includestacktraces (default true), onlyactive (default false).
    """
    _pickle(request, response, "_dump_nccl_trace")


def fr_trace_pickle(request: Request, response: Response) -> None:
    """Answer with the generic recorder's entries (gloo and others), pickled; parameters as above."""
    _pickle(request, response, "_dump_fr_trace")


def dump_nccl_trace_json(request: Request, response: Response) -> None:
    """Answer with the NCCL recorder's entries as JSON, without stacks; without NCCL, with the generic recorder's.

    Parameters: includecollectives (default true), onlyactive (default false).
    """
    _json(request, response, "_dump_nccl_trace_json")


def fr_trace_json(request: Request, response: Response) -> None:
    """Answer with the generic recorder's entries as JSON; parameters as for dump_nccl_trace_json."""
    _json(request, response, "_dump_fr_trace_json")


def wait_counter_values(request: Request, response: Response) -> None:
    """Answer with torch's wait counters as JSON; empty if torch is not loaded."""
    check_names(request)
    if c10d() is None:
        response.set_content("{}", "application/json")
        return
    handler = torchlink.torch_handler("wait_counter_values")
    if handler is None:
        raise Refusal(501, f"torch {_version()} has no wait counters")
    handler(request, response)


def _pickle(request: Request, response: Response, binding: str) -> None:
    chosen = booleans(request, includecollectives=True, includestacktraces=True, onlyactive=False)
    dump, recorder = recorder_of(binding)
    if dump is None:
        import pickle  # late: once torch is loaded, so is this

        content = pickle.dumps(EMPTY, protocol=2)
    else:
        content = dump(
            includeCollectives=chosen["includecollectives"],
            includeStackTraces=chosen["includestacktraces"],
            onlyActive=chosen["onlyactive"],
        )
    answer(response, content, "application/octet-stream", recorder)


def _json(request: Request, response: Response, binding: str) -> None:
    chosen = booleans(request, includecollectives=True, onlyactive=False)
    dump, recorder = recorder_of(binding)
    content = protocol.compact_json(EMPTY).encode()
    if dump is not None:
        content = dump(includeCollectives=chosen["includecollectives"], onlyActive=chosen["onlyactive"])
    answer(response, content, "application/json", recorder)


def answer(response: Response, content: bytes, content_type: str, recorder: str) -> None:
    response.set_content(content, content_type)
    response.set_header(protocol.RECORDER_HEADER, recorder)
    response.set_status(200)


def recorder_of(binding: str) -> tuple[Any, str]:
    """Return torch's function and the recorder's name: the generic one if this build has no NCCL.

    If torch is not loaded, the function is None and the name is "none".
    """
    bindings = c10d()
    if bindings is None:
        return None, protocol.NO_RECORDER
    name = binding if hasattr(bindings, binding) else binding.replace("nccl", "fr")
    if not hasattr(bindings, name):
        raise Refusal(501, f"torch {_version()} has no flight recorder for this backend")
    return getattr(bindings, name), protocol.NCCL_RECORDER if "nccl" in name else protocol.GENERIC_RECORDER


def _version() -> str:
    return str(getattr(loaded("torch"), "__version__", "of this process"))
