"""Look up modules in `sys.modules`, so that we never load torch behind the trainer's back.

Not even for a handler that has little to report without torch: an import changes the process (its threads, its
memory, the effect of OMP_NUM_THREADS on a script that has not imported torch yet).
"""

from __future__ import annotations

import sys
from typing import Any

_C10D = "torch._C._distributed_c10d"


def loaded(name: str) -> Any:
    """Return a loaded module, or None if it is not loaded or still being imported."""
    module = sys.modules.get(name)
    if module is None or getattr(getattr(module, "__spec__", None), "_initializing", False):
        return None
    return module


def c10d() -> Any:
    """Return torch's distributed bindings, or None while torch is not (fully) loaded."""
    return sys.modules.get(_C10D) if loaded("torch") is not None else None
