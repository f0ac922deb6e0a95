"""Coordination of ranks through a store: the functions behind `barrier`, `synchronize` and `store`.

Names, arguments, keys and errors are those of torch's `elastic.utils` (2.13), so that ranks in these functions
and ranks in torch's coordinate with each other. torch is imported only when a store is used.
"""

from torchctl.storeutil.barrier import barrier
from torchctl.storeutil.c10d import create_c10d_store
from torchctl.storeutil.logs import get_logger
from torchctl.storeutil.sockets import get_free_port, get_socket_with_port
from torchctl.storeutil.synchronize import get_all, synchronize
from torchctl.storeutil.waiting import store_timeout

__all__ = [
    "barrier",
    "create_c10d_store",
    "get_all",
    "get_free_port",
    "get_logger",
    "get_socket_with_port",
    "store_timeout",
    "synchronize",
]
