"""Ctrl-C, a notebook's stop button and SIGTERM: training ends between two steps, after a checkpoint."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Interrupted(KeyboardInterrupt):
    """A signal stopped the work; the message says where. `code` is a shell's exit code for this signal."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(f"{message}; run the same command or cell again to resume")
        self.code = 128 + number


@contextlib.contextmanager
def held() -> Iterator[list[int]]:
    """Note SIGINT and SIGTERM in the yielded list. Who works inside looks at it and raises Interrupted, or it is raised
    at the end. A second SIGINT acts as before. Outside the main thread, and for ignored signals, nothing changes."""
    noted, main = [], threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM) if main}
    before = {number: handler for number, handler in before.items() if handler not in (None, signal.SIG_IGN)}

    def note(number: int, _: object) -> None:
        noted.append(number)
        if number == signal.SIGINT:
            signal.signal(number, before[number])

    try:
        for number in before:
            signal.signal(number, note)
        yield noted
    except Exception as error:  # a full disk, or a loss that is not finite
        if noted:
            raise Interrupted(f"stopped, but with an error: {error}", noted[0]) from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if noted:
        raise Interrupted("stopped after the last step, so this run is trained", noted[0])


def terminate(number: int, _: object) -> None:
    """A handler that raises Interrupted, so that a process can wait for the checkpoints of its workers."""
    signal.signal(number, signal.SIG_IGN)  # a second signal must not end the waiting
    raise Interrupted("stopped", number)
