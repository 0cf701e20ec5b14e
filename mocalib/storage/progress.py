"""A progress bar that prints few lines in stored notebooks and log files."""

import os
import sys
import threading
from collections.abc import Iterable

from tqdm import tqdm

tqdm.set_lock(threading.RLock())  # tqdm's own lock is shared by processes, and a killed one leaves it locked


def bar(description: str, total: int, initial: int = 0, unit: str = "it", items: Iterable | None = None) -> tqdm:
    """A tqdm bar, over `items` if given: smooth in a terminal; elsewhere a plain line at first, every 30 s and at last.

    A notebook stores every refresh as a separate output.
    """
    terminal = sys.stdout.isatty() and os.get_terminal_size(sys.stdout.fileno()).columns > 0
    return tqdm(
        items,
        desc=description,
        total=total,
        initial=initial,
        unit=unit,
        file=sys.stdout,
        mininterval=0.2 if terminal else 30.0,
        ascii=None if terminal else True,  # None: as the terminal can
        dynamic_ncols=terminal,
        miniters=0,  # update(0) also shows the time
        position=None if terminal else 0,  # a nested bar moves the cursor; files and notebooks store these characters
    )
