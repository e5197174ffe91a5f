"""Numbers as text for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, TypeGuard

from tutelage.data.labels import in_list

NBSP = "\u00a0"


MISSING = "–"


MOST_LABELS = 24


def finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def score_text(value: Any) -> str:
    """``0.883``."""
    return f"{value:.3f}" if finite(value) else MISSING


def rounded(value: float, digits: int, *, scale: int = 0, sign: bool = False) -> str:
    """A number times ``10 ** scale`` with so many digits. The decimal number that Python prints is rounded, half to even, not the
    binary one beside it: 0.8835 in points is 88.4, and as a binary number it is a little less."""
    number = Decimal(repr(float(value))).scaleb(scale).quantize(Decimal(1).scaleb(-digits))
    return f"{abs(number) if number == 0 else number:{'+' if sign else ''}.{digits}f}"


def signed(value: float) -> str:
    """A difference to three digits: ``+0.012``, with a minus as wide as the plus."""
    return rounded(value, 3, sign=True).replace("-", "−")


def percent(value: Any) -> str:
    """``97.1 %`` of a fraction."""
    return f"{value:.1%}".replace("%", f"{NBSP}%") if finite(value) else MISSING


def count_text(value: Any) -> str:
    """``22.7 M`` for parameters, ``3,301`` below 100,000."""
    if not finite(value):
        return MISSING
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= max(size, 1e5):
            return f"{_three(value / size)}{NBSP}{unit}"
    return f"{value:,.0f}"


def flops_text(value: Any) -> str:
    """``1.1 GFLOP``."""
    return _scaled(value, "FLOP", (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)))


def bytes_text(value: Any) -> str:
    """``41.2 MB``, decimal units."""
    return _scaled(value, "B", (("G", 1e9), ("M", 1e6), ("k", 1e3)))


def _scaled(value: Any, unit: str, prefixes: Iterable[tuple[str, float]]) -> str:
    if not finite(value):
        return MISSING
    for prefix, size in prefixes:
        if abs(value) >= size:
            return f"{_three(value / size)}{NBSP}{prefix}{unit}"
    return f"{value:.0f}{NBSP}{unit}"


def _three(value: float) -> str:
    return f"{value:.1f}" if abs(value) < 100 else f"{value:,.0f}"


def milliseconds(value: Any) -> str:
    """``9.1 ms``; two digits more below one."""
    if not finite(value):
        return MISSING
    return f"{value:.2f}{NBSP}ms" if value < 1 else f"{_three(value)}{NBSP}ms"


def seconds_text(value: Any) -> str:
    """``0.8 s``, ``61 s``, ``5 min 40 s``, ``2 h 3 min``."""
    if not finite(value):
        return MISSING
    whole = round(value)
    if whole < 10:
        return f"{value:.1f}{NBSP}s"
    if whole < 120:
        return f"{whole}{NBSP}s"
    if whole < 7200:
        return f"{whole // 60}{NBSP}min {whole % 60}{NBSP}s"
    minutes = round(value / 60)
    return f"{minutes // 60}{NBSP}h {minutes % 60}{NBSP}min"


def times(value: float) -> str:
    """``2.1x``."""
    return f"{_three(value)}x"


def label_list(labels: Sequence[str]) -> str:
    """The labels' names, the first of very many."""
    more = len(labels) - MOST_LABELS
    return ", ".join(map(in_list, labels[:MOST_LABELS])) + (f" and {more} more" if more > 0 else "")


def device_text(name: str) -> str:
    """A torch device for people."""
    return {"cpu": "the CPU", "cuda": "the GPU", "mps": "the GPU"}.get(name, name)
