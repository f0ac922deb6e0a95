"""The `torchctl` command, and `python -m torchctl`."""

import gc
import signal
import threading

# Ctrl-C while modules load ends the process as it ends any program, without a traceback; `main` takes it from there.
if (
    signal.getsignal(signal.SIGINT) is signal.default_int_handler
    and threading.current_thread() is threading.main_thread()
):
    signal.signal(signal.SIGINT, signal.SIG_DFL)

# Imports make no garbage, and the collector's default pace costs a `ping` a tenth of its time.
gc.set_threshold(50_000, 20, 20)

from torchctl.cli import main  # noqa: E402 (after the lines above)

if __name__ == "__main__":
    main()
