"""What torch, loaded in this process, has to say: looked up in `sys.modules`, so that we are never the one
who loads it behind the trainer's back.

Not even for a handler that has little to say without torch: an import changes the process (its threads, its
memory, what OMP_NUM_THREADS still means to a script that has not imported torch yet).
"""

from __future__ import annotations

import sys
from functools import lru_cache
from types import ModuleType
from typing import Any

from torchctl.server.request import Handler, Request, Response

_C10D = "torch._C._distributed_c10d"


def loaded(name: str) -> Any:
    """Return a module that is loaded and whose import has finished, else None."""
    module = sys.modules.get(name)
    if module is None or getattr(getattr(module, "__spec__", None), "_initializing", False):
        return None
    return module


def c10d() -> Any:
    """Return torch's distributed bindings, or None while torch is not (fully) loaded."""
    return sys.modules.get(_C10D) if loaded("torch") is not None else None


def distributed() -> ModuleType | None:
    """Return `torch.distributed` while its default process group is initialised, else None."""
    module = loaded("torch.distributed")
    try:
        return module if module is not None and module.is_available() and module.is_initialized() else None
    except Exception:
        return None  # half torn down or replaced by a stand-in: the environment speaks then


def torch_handler_names() -> list[str]:
    """Return the names of the handlers registered with torch; empty while torch is not loaded."""
    bindings = c10d()
    names = getattr(bindings, "_get_handler_names", None)
    return list(names()) if names is not None else []


def torch_handler(name: str) -> Handler | None:
    """Return torch's handler of that name as one of ours, or None.

    A C++ handler that reads `params()` fails with a cast error when it is called this way; torch's own three
    of that kind (`pyspy_dump` and both `dump_nccl_trace_*`) are never asked for here, since ours come first.
    """
    bindings = c10d()
    if bindings is None or name not in torch_handler_names():
        return None
    function = bindings._get_handler(name)

    def call(request: Request, response: Response) -> None:
        request_class, response_class = _adapters(bindings)
        function(request_class(request), response_class(response))

    return call


@lru_cache(maxsize=1)
def _adapters(bindings: Any) -> tuple[Any, Any]:
    """Return subclasses of torch's request and response that hand on to ours."""

    class TorchRequest(bindings._Request):  # type: ignore[misc]
        def __init__(self, request: Request) -> None:
            bindings._Request.__init__(self)
            self.body = request.body
            self.params = request.params
            self.get_param = request.get_param

    class TorchResponse(bindings._Response):  # type: ignore[misc]
        def __init__(self, response: Response) -> None:
            bindings._Response.__init__(self)
            self.set_content = response.set_content
            self.set_status = response.set_status

    return TorchRequest, TorchResponse
