"""`info`: who this worker is, in JSON."""

from __future__ import annotations

import os
import socket
import sys
import time
from functools import lru_cache
from typing import Any

from torchctl import __version__
from torchctl.process.samples import start_ticks
from torchctl.process.started import age_s, start_time
from torchctl.protocol import compact_json
from torchctl.protocol.info import info_document
from torchctl.protocol.masking import masked_arguments
from torchctl.protocol.stacktext import CALLS_PARAMETER
from torchctl.server import registry
from torchctl.server.guest import guesses, identity, sharing, step, torchlink
from torchctl.server.guest.loaded import loaded
from torchctl.server.handlers import calls
from torchctl.server.request import Request, Response


def info(request: Request, response: Response) -> None:
    """Answer with rank, process, job, versions, device, last step and handlers as one JSON object.

    Parameter ``calls``: ``true`` to add what its threads are calling.
    """
    local_rank, last = identity.place().local_rank, step.last
    ticks = _own_ticks(os.getpid())
    document = calls.if_wanted(request)
    reported, step_time = (None, None) if last is None else (_whole(last[0]), last[1])
    answer = info_document(
        identity.of_process(os.getpid())._replace(step=reported),
        host=socket.gethostname(),
        time=time.time(),
        start_time=start_time(ticks),
        uptime_s=age_s(ticks),
        server_version=__version__,
        handlers=registry.get_handler_names(),
        step_time=step_time,
        sentinel=sharing.sentinel_pid(),
        sentinel_serves=sharing.sentinel_serves(),
        local_rank=local_rank,
        python_version=sys.version.split()[0],
        torch_version=_torch_version(),
        backends=_backends(),
        cuda_visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
        device=_device(local_rank),
        argv=masked_arguments(sys.argv),
        cwd=_cwd(),
        wrong_tokens=guesses.total,
        **({} if document is None else {CALLS_PARAMETER: document}),
    )
    response.set_content(compact_json(answer), "application/json")
    response.set_status(200)


@lru_cache(maxsize=1)
def _own_ticks(pid: int) -> int | None:
    """Return when this process started; read once, since each file we open is one more descriptor to lose."""
    return start_ticks(pid)


def _whole(step: object) -> int | None:
    """Return the step as an integer; report_step accepts anything, to avoid checks in the training loop."""
    try:
        return int(step)  # type: ignore[call-overload, no-any-return]
    except (TypeError, ValueError, OverflowError):
        return None


def _torch_version() -> str | None:
    version = getattr(loaded("torch"), "__version__", None)
    return None if version is None else str(version)


def _backends() -> list[str]:
    """Return the backends of the default process group, such as ``["cpu:gloo", "cuda:nccl"]``."""
    dist: Any = torchlink.distributed()
    if dist is None:
        return []
    try:
        return str(dist.get_backend_config()).split(",")
    except Exception:
        return []


def _device(local_rank: int | None) -> dict[str, Any] | None:
    """Return this rank's CUDA device, or None if CUDA is not in use; never initializes CUDA.

    `index` counts within CUDA_VISIBLE_DEVICES; `physical` is the entry in that list. `source` says how we know:
    the device is bound to the process group, or by convention local rank N uses device N.
    """
    cuda = loaded("torch.cuda")
    dist: Any = torchlink.distributed()
    index, source = local_rank, "local_rank"
    try:
        if cuda is None or not cuda.is_initialized():
            return None
        bound = None if dist is None else dist.group.WORLD.bound_device_id
        if bound is not None and bound.index is not None:
            index, source = int(bound.index), "process_group"
    except Exception:
        return None
    if index is None:
        return None
    visible = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    physical = visible[index] if index < len(visible) else None if visible else str(index)
    return {"index": index, "physical": physical, "source": source}


def _cwd() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None
