"""What the torch loaded in this process offers: its process group, and its handlers adapted to ours."""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType
from typing import Any

from torchctl.server.guest.loaded import c10d, loaded
from torchctl.server.request import Handler, Request, Response


def distributed() -> ModuleType | None:
    """Return `torch.distributed` if its default process group is initialised, else None."""
    module = loaded("torch.distributed")
    try:
        return module if module is not None and module.is_available() and module.is_initialized() else None
    except Exception:
        return None  # half torn down or replaced by a stand-in: use the environment instead


def torch_handler_names() -> list[str]:
    """Return the names of the handlers registered with torch; empty if torch is not loaded."""
    bindings = c10d()
    names = getattr(bindings, "_get_handler_names", None)
    return list(names()) if names is not None else []


def torch_handler(name: str) -> Handler | None:
    """Return torch's handler with that name, adapted to ours, or None.

    A C++ handler that reads `params()` fails with a cast error when called this way; torch's own three
    of that kind (`pyspy_dump` and both `dump_nccl_trace_*`) are never reached, since ours take precedence.
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
    """Return subclasses of torch's request and response that delegate to ours."""

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
