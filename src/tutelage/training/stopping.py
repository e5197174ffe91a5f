"""Ctrl-C and SIGTERM during training: the step is finished and a checkpoint written before the program ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tutelage.errors import Stopped, option


def stopped(number: int, where: str) -> Stopped:
    """The end that a signal asked for; ``where`` says how far the run came."""
    return Stopped(
        number,
        f"stopped {where}; repeat the command, with {option('resume')} if it has that option, to go on from there",
    )


@contextmanager
def deferred() -> Iterator[Callable[[], int]]:
    """While this lasts, the first signal is only noted; yields a function that returns its number, or 0. A second one ends at once.

    Handlers that the caller has set stay, and so do those of threads other than the main one.

    Raises:
        Stopped: at the end, if a signal was noted and nobody acted on it.
    """
    noted: list[int] = []

    def note(number: int, frame: object) -> None:
        if noted:
            raise stopped(number, "before the step was finished, at the last checkpoint")
        noted.append(number)

    usual = (signal.SIG_DFL, signal.default_int_handler)
    here = threading.current_thread() is threading.main_thread()
    before = {
        number: handler
        for number in (signal.SIGINT, signal.SIGTERM)
        if here and (handler := signal.getsignal(number)) in usual
    }
    try:
        for number in before:
            signal.signal(number, note)
        yield lambda: noted[0] if noted else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if noted:
        raise stopped(noted[0], "after training")
