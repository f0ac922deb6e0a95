"""The worker's end of the page that it shares with its sentinel leaves nothing behind."""

import os
import threading

from torchctl.server.guest.sharedpage import SharedPage

ROUNDS = 300


def pages() -> list[str]:
    """Return the descriptors and mappings of this process that are such a page."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        if os.path.islink(f"/proc/self/fd/{number}"):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    with open("/proc/self/maps", encoding="ascii") as file:
        found += file.read().split()
    return [one for one in found if "memfd:torchctl-page" in one]


def test_other_threads_that_open_files_do_not_keep_a_page_alive() -> None:
    """They take the number that the mapping would have had."""
    ended = threading.Event()

    def open_files() -> None:
        while not ended.is_set():
            os.close(os.open(os.devnull, os.O_RDONLY))

    threads = [threading.Thread(target=open_files) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(ROUNDS):
            page = SharedPage()
            page.close_descriptor()
            page.let_go()
            del page
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert pages() == []


def test_a_forked_child_unmaps_a_page_to_which_something_still_refers() -> None:
    page = SharedPage()
    words = page.words
    page.close_descriptor()
    page.unmap()
    assert pages() == []
    words.report(3, 1.0)  # of no effect, and no error
