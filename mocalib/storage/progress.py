"""A progress bar that is kind to stored notebooks and log files."""

import os
import sys
import threading

from tqdm import tqdm

tqdm.set_lock(threading.RLock())  # its own is shared by processes, and left behind by one that is ended


def bar(description: str, total: int, initial: int = 0, unit: str = "it") -> tqdm:
    """A tqdm bar: smooth in a terminal, one plain line every 30 s elsewhere.

    Every refresh of a bar is stored in an executed notebook as an output of its own, so away from a terminal
    refreshes are rare; what lasts less than 30 s prints its first and last state only.
    """
    terminal = sys.stdout.isatty() and os.get_terminal_size(sys.stdout.fileno()).columns > 0
    return tqdm(
        desc=description,
        total=total,
        initial=initial,
        unit=unit,
        file=sys.stdout,
        mininterval=0.2 if terminal else 30.0,
        ascii=not terminal,
        dynamic_ncols=terminal,
        miniters=1,
        position=None if terminal else 0,  # a bar within a bar would move the cursor, which files and notebooks keep
    )
