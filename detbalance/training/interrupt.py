"""Stopping a run between two iterations, so that what was done can be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupted(Exception):
    """The user stopped the run; what was done is saved."""


class StopRequest(threading.Event):
    """Whether the user asked to stop; and whether that is to be at once, by a KeyboardInterrupt."""

    _at_once = False

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Stop what takes long and leaves nothing to save; a request from before is one, too."""
        self._at_once = True
        try:
            if self.is_set():
                raise KeyboardInterrupt
            yield
        finally:
            self._at_once = False

    def ask(self, number: int, frame: object) -> None:
        """Ask to stop, as the handler of a signal. Who asks a second time does not want to wait."""
        again = self.is_set()
        self.set()
        if again or self._at_once:
            raise KeyboardInterrupt


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Turn the first Ctrl-C or SIGTERM into a request that the loop honours between iterations."""
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, stop.ask) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
