"""Stopping a run between two iterations, so that what was done can be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupted(Exception):
    """The user stopped the run; what was done is saved."""


@contextmanager
def stop_request() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C or SIGTERM into a request that the loop honours between iterations.

    A second one stops at once. Outside the main thread, where Python takes no signals, the event
    is never set.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
