"""Several processes that do the work of one command, as ``torchrun`` starts them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeVar, cast

from accelerate import Accelerator
from accelerate.utils import gather_object

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The processes that share some work; by default this one alone.

    All of them call the same methods in the same order.
    """

    rank: int = 0
    count: int = 1
    exchange: Callable[[Any], list[Any]] = lambda value: [value]
    """Returns the values of all processes, by rank. None returns before all have called it."""

    @classmethod
    def of(cls, accelerator: Accelerator) -> Self:
        """The processes that train together."""
        return cls(accelerator.process_index, accelerator.num_processes, lambda value: gather_object([value]))

    def each(self, act: Callable[[], T]) -> T:
        """What this process's ``act`` returns, once all have ended theirs. Where one fails, all do.

        Raises:
            Exception: as ``act`` of any process.
        """
        value, error = None, None
        try:
            value = act()
        except Exception as found:  # the others wait for it
            error = found
        for one in (error, *self.exchange(error)):
            if one is not None:
                raise one
        return cast(T, value)

    def first(self, act: Callable[[], T]) -> T:
        """What the first process's ``act`` returns, in all of them. Where it fails, all do.

        Raises:
            Exception: as ``act``.
        """
        value = self.each(lambda: act() if self.rank == 0 else None)
        return cast(T, self.of_first(value))

    def of_first(self, value: T) -> T:
        """The first process's value, in all of them."""
        return cast(T, self.exchange(value)[0])


ALONE = Processes()
"""This process, with no other."""
