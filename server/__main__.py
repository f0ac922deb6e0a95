"""`python -m torchctl.server train.py ARGS`: run a script as `__main__` with the debug server beside it.

How this works: the script must see what it would see under plain `python train.py`: argv, `sys.path[0]`,
`__main__`, exit code and stderr. So it gets a separate module as `__main__`, and if it raises, we cut our
frames from the traceback before the interpreter's hook prints it.
"""

from __future__ import annotations

import os
import runpy
import sys
from importlib.machinery import SourceFileLoader
from types import CodeType, ModuleType, TracebackType

from torchctl.server.lifecycle import serve_until_exit
from torchctl.server.options import WorkerOptions, flags_help, from_command_line

_USAGE = f"""usage: python -m torchctl.server [OPTIONS] SCRIPT [ARGS...]
       python -m torchctl.server [OPTIONS] -m MODULE [ARGS...]

Options, each with the environment variable that also sets it:
{flags_help()}"""


def main() -> None:
    """Run the script or module that the command line names."""
    options, arguments = from_command_line(sys.argv[1:])
    as_module = arguments[:1] == ["-m"]
    if as_module:
        del arguments[0]
    if not arguments or arguments[0].startswith("-"):
        sys.stderr.write(_USAGE)
        sys.exit(0 if arguments[:1] in (["-h"], ["--help"]) else 2)
    target = arguments[0]
    sys.argv[:] = arguments
    try:
        with serve_until_exit(WorkerOptions(**options)):
            if as_module:
                runpy.run_module(target, run_name="__main__", alter_sys=True)
            elif os.path.isdir(target) or target.endswith((".zip", ".pyz")):
                runpy.run_path(os.path.abspath(target), run_name="__main__")
            else:
                _run_script(target)
    except SystemExit:
        raise
    except BaseException as error:
        _print_as_if_alone(error)
        raise


def _run_script(path: str) -> None:
    absolute = os.path.abspath(path)  # as python itself does since 3.9
    if not getattr(sys.flags, "safe_path", False):  # -P leaves the script's folder out
        sys.path[0] = os.path.dirname(os.path.realpath(path))
    code = _compile(path, absolute)
    module = ModuleType("__main__")
    module.__file__ = absolute
    module.__dict__["__builtins__"] = sys.modules["builtins"]
    module.__dict__["__cached__"] = None
    module.__loader__ = SourceFileLoader("__main__", absolute)
    sys.modules["__main__"] = module
    exec(code, module.__dict__)


def _compile(path: str, absolute: str) -> CodeType:
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        executable = sys.orig_argv[0]
        sys.stderr.write(f"{executable}: can't open file {absolute!r}: [Errno {error.errno}] {error.strerror}\n")
        sys.exit(2)
    return compile(source, absolute, "exec", dont_inherit=True)


def _print_as_if_alone(error: BaseException) -> None:
    """Print the exception as the interpreter would without us, then keep it from printing again."""
    trace = error.__traceback__
    while trace is not None and _is_ours(trace):
        trace = trace.tb_next
    sys.excepthook(type(error), error.with_traceback(trace), trace)
    sys.excepthook = lambda kind, value, tb: None


def _is_ours(trace: TracebackType) -> bool:
    file = trace.tb_frame.f_code.co_filename
    return os.path.dirname(file) == os.path.dirname(__file__) or file == runpy.__file__ or "runpy" in file[:15]


main()
