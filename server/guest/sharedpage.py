"""The worker's end of the page that it shares with the sentinel, as long as the trainer leaves its descriptors alone.

How this works: the memfd has two descriptors here. One is for the sentinel, and ours until it is handed over; the
other belongs to the mapping, and Python closes it with the mapping. Python does not expose its number, so we look for
it: usually it is the lowest free one, unless another thread opens or closes a file at the same moment.
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
        lowest = os.dup(self.descriptor)
        os.close(lowest)
        self.words = Page(self.descriptor)
        self._mapping = lowest if ownership.is_still(lowest, self._mark) else self._other_descriptor()

    def close_descriptor(self) -> None:
        """Close the sentinel's descriptor, once the sentinel has a copy or will never get one."""
        descriptor, self.descriptor = self.descriptor, -1
        with contextlib.suppress(OSError):
            ownership.close(descriptor, self._mark)

    def _other_descriptor(self) -> int:
        """Return which other descriptor is this memfd, or -1."""
        numbers = (int(name) for name in os.listdir("/proc/self/fd"))
        return next((one for one in numbers if one != self.descriptor and ownership.is_still(one, self._mark)), -1)

    def let_go(self) -> None:
        """Make it safe to free this object, which unmaps the page and closes the mapping's descriptor."""
        if not ownership.is_still(self._mapping, self._mark):
            ownership.keep_for_ever(self.words)  # the descriptor now belongs to the trainer

    def unmap(self) -> None:
        """Unmap the page at once, in a forked child: the frames of the parent's threads may refer to it for good."""
        if ownership.is_still(self._mapping, self._mark):
            self.words.close()
        else:
            ownership.keep_for_ever(self.words)
