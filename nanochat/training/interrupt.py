"""Ctrl-C and SIGTERM as a wish: training ends after the running step and saves first."""

import os
import signal
import threading
import time
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ONE_WISH_S = 2.0  # launchers pass a Ctrl-C on, so that a process gets it twice; within this time it counts once


class Interruption:
    """While entered, the first SIGINT or SIGTERM only sets `is_wanted`; a later one raises KeyboardInterrupt at once.

    Only the main thread can receive signals; entered in another one, nothing changes.
    """

    def __init__(self) -> None:
        self.name = ""  # of the signal that came, "" before
        self._came_at = 0.0
        self._previous: dict[int, object] = {}

    @property
    def is_wanted(self) -> bool:
        return bool(self.name)

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            # None stands for a handler that Python did not set and cannot set again
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # type: ignore[arg-type]
        self._previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.name:
            self.name, self._came_at = signal.Signals(number).name, now
            # print is not safe here: the signal may have come in the middle of another print
            os.write(2, b"Stopping after this step, with a checkpoint; once more stops at once.\n")
        elif now - self._came_at > ONE_WISH_S:
            raise KeyboardInterrupt
