"""Started by a worker as ``python -I -S PATH SOCKET PID START_TICKS``; see `loop` for what it does.

How this works: ``-S`` leaves out site-packages, and importing `torchctl/__init__` and `torchctl.server` would cost
memory for every rank. So we register both names as bare packages that only know their folders.
"""

import os
import sys
import types

_SERVER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_PACKAGE = os.path.join(os.path.dirname(_SERVER), "torchctl")
if not os.path.isdir(os.path.join(_PACKAGE, "process")):
    _PACKAGE = os.path.dirname(_SERVER)  # when installed, the server's folder is inside the package

for _name, _folder in (("torchctl", _PACKAGE), ("torchctl.server", _SERVER)):
    _package = types.ModuleType(_name)
    _package.__path__ = [_folder]
    sys.modules[_name] = _package

if __name__ == "__main__":
    from torchctl.server.sentinel.loop import main

    main(sys.argv[1:])
