"""Ctrl-C and SIGTERM: during training the step is finished and a checkpoint written before the program ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tutelage.errors import Stopped, command, option

RESUMES = ("distill", "finetune", "pretrain", "run")
"""The commands that take ``--resume``; the others go on if they are repeated."""


def stopped(number: int, where: str) -> Stopped:
    """The end that a signal asked for; ``where`` says how far the run came."""
    typed = command()
    if typed is None:
        again = "repeat the call, with resume=True if it takes that,"
    else:
        again = (
            f"repeat the command with {option('resume', True)}"
            if typed.split()[1:2] in [[one] for one in RESUMES]
            else "repeat the command"
        )
    return Stopped(number, f"stopped {where}; {again} to go on from there")


class Stops:
    """The signals that ask a run to end. While training steps run the first is only noted; at other times, and the second time, the
    run ends at once."""

    def __init__(self) -> None:
        self._noted, self._stepping = 0, False

    def asked(self) -> int:
        """The number of a signal that was noted, or 0."""
        return self._noted

    @contextmanager
    def steps(self) -> Iterator[None]:
        """While this lasts, training steps run, and whoever takes them asks whether to end.

        Raises:
            Stopped: at the end, if a signal was noted and nobody acted on it.
        """
        self._stepping = True
        try:
            yield
        finally:
            self._stepping = False
        if self._noted:
            raise stopped(self._noted, "after training")

    def note(self, number: int, frame: object) -> None:
        """Handle a signal."""
        if not self._stepping:
            raise stopped(number, "outside of training")
        if self._noted:
            raise stopped(number, "before the step was finished, at the last checkpoint")
        self._noted = number


@contextmanager
def handled() -> Iterator[Stops]:
    """While this lasts, Ctrl-C and SIGTERM are handled. Handlers that the caller has set stay; threads other than the main one have
    none."""
    stops, usual = Stops(), (signal.SIG_DFL, signal.default_int_handler)
    here = threading.current_thread() is threading.main_thread()
    before = {
        number: handler
        for number in (signal.SIGINT, signal.SIGTERM)
        if here and (handler := signal.getsignal(number)) in usual
    }
    try:
        for number in before:
            signal.signal(number, stops.note)
        yield stops
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
