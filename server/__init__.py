"""The worker side: a small debug server that runs inside every rank of a distributed job.

Start it with one line in the training script, ``with worker_main():`` or ``@worker_main()``, or without any:
``python -m torchctl.server train.py``. Imports only the standard library until a handler needs torch.
"""

from torchctl.server import handlers as _handlers  # noqa: F401 (registers them)
from torchctl.server.guest.step import report_step
from torchctl.server.lifecycle import TORCH_WORKER_SERVER_SOCKET, worker_main
from torchctl.server.registry import get_handler, get_handler_names, handler, register_handler
from torchctl.server.request import Request, Response
from torchctl.server.worker import WorkerServer

__all__ = [
    "TORCH_WORKER_SERVER_SOCKET",
    "Request",
    "Response",
    "WorkerServer",
    "get_handler",
    "get_handler_names",
    "handler",
    "register_handler",
    "report_step",
    "worker_main",
]
