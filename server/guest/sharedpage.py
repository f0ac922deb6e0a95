"""The worker's end of the page that it shares with the sentinel, as long as the trainer leaves its descriptors alone.

How this works: the memfd has two descriptors here. One is for the sentinel, and ours until it is handed over; the
other belongs to the mapping, and Python closes it with the mapping. Python does not expose its number, but it is the
lowest free one, so we find it out beforehand.
"""

from __future__ import annotations

import contextlib
import os

from torchctl.server.guest import ownership
from torchctl.server.sentinel.page import Page, make


class SharedPage:
    """A new page.

    Attributes:
        words: the page to write to.
        descriptor: for the sentinel; -1 after `close_descriptor`.

    Raises:
        OSError: out of descriptors or memory.
    """

    def __init__(self) -> None:
        self.descriptor = make()
        self._mark = ownership.mark(self.descriptor)
        self._mapping = os.dup(self.descriptor)
        os.close(self._mapping)  # the lowest free number, which the mapping takes next
        self.words = Page(self.descriptor)

    def close_descriptor(self) -> None:
        """Close the sentinel's descriptor, once the sentinel has a copy or will never get one."""
        descriptor, self.descriptor = self.descriptor, -1
        with contextlib.suppress(OSError):
            ownership.close(descriptor, self._mark)

    def let_go(self) -> None:
        """Make it safe to free this object, which unmaps the page and closes the mapping's descriptor."""
        if not ownership.is_still(self._mapping, self._mark):
            ownership.keep_for_ever(self.words)  # the descriptor now belongs to the trainer
