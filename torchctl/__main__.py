"""The `torchctl` command, and `python -m torchctl`."""

import gc

# Imports make no garbage, and the collector's default pace costs a `ping` a tenth of its time.
gc.set_threshold(50_000, 20, 20)

from torchctl.cli import main  # noqa: E402 (after the pace is set)

if __name__ == "__main__":
    main()
