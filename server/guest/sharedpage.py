"""The worker's end of the page that it shares with the sentinel, as long as the trainer lets us have its descriptors.

How this works: the memfd has two descriptors here. The one that is handed to the sentinel is ours until that is done;
the other is the mapping's own, which Python closes with it. Its number cannot be asked for: it is the lowest that was
free, so it is found out beforehand.
"""

from __future__ import annotations

import contextlib
import os

from torchctl.server.guest import ownership
from torchctl.server.sentinel.page import Page, make


class SharedPage:
    """A new page.

    Attributes:
        words: what is written into.
        descriptor: for the sentinel, -1 after `close_descriptor`.

    Raises:
        OSError: no descriptor or no memory is left.
    """

    def __init__(self) -> None:
        self.descriptor = make()
        self._mark = ownership.mark(self.descriptor)
        self._mapping = os.dup(self.descriptor)
        os.close(self._mapping)  # the lowest that is free, which the mapping takes now
        self.words = Page(self.descriptor)

    def close_descriptor(self) -> None:
        """Close what the sentinel has a copy of, or never will."""
        descriptor, self.descriptor = self.descriptor, -1
        with contextlib.suppress(OSError):
            ownership.close(descriptor, self._mark)

    def let_go(self) -> None:
        """Make it harmless that this object ends, which unmaps the page and closes the mapping's descriptor."""
        if not ownership.is_still(self._mapping, self._mark):
            ownership.keep_for_ever(self.words)  # the descriptor is the trainer's now
