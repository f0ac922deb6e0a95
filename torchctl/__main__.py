"""The `torchctl` command, and `python -m torchctl`."""

import gc
import signal
import threading

# Ctrl-C while modules load ends the process at once, without a traceback; `main` restores Python's handler.
if (
    signal.getsignal(signal.SIGINT) is signal.default_int_handler
    and threading.current_thread() is threading.main_thread()
):
    signal.signal(signal.SIGINT, signal.SIG_DFL)

# Imports create no garbage, and at its default thresholds the collector takes a tenth of a `ping`'s time.
gc.set_threshold(50_000, 20, 20)

from torchctl.cli import main  # noqa: E402 (after the lines above)

if __name__ == "__main__":
    main()
