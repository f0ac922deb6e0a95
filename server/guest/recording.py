"""When sends and receives are recorded: from the import of torch.distributed, for as long as a server runs.

How this works: the server usually starts before the script imports torch. So a finder at the front of `sys.meta_path`
waits for torch.distributed's module, lets the other finders find it, removes itself, and starts recording once the
module is loaded. It loads nothing itself.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from torchctl.server.guest import outstanding
from torchctl.server.guest.loaded import c10d

_MODULE = "torch.distributed.distributed_c10d"
_servers = 0


def begin() -> None:
    """Record from now on, or once torch.distributed is loaded; each call needs a matching `end`."""
    global _servers
    _servers += 1
    if not outstanding.record(c10d()) and not any(isinstance(one, _Waiting) for one in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())


def end() -> None:
    """Put torch's own functions back if no other server records."""
    global _servers
    _servers -= 1
    if _servers == 0:
        sys.meta_path[:] = [one for one in sys.meta_path if not isinstance(one, _Waiting)]
        outstanding.stop()


class _Waiting(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _MODULE:
            return None
        sys.meta_path[:] = [one for one in sys.meta_path if one is not self]
        for finder in list(sys.meta_path):
            spec: ModuleSpec | None = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loading(spec.loader)
                return spec
        return None


class _Loading(Loader):
    """Wraps another loader, which it puts back before the module runs."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        if _servers:
            outstanding.record(sys.modules.get("torch._C._distributed_c10d"))
