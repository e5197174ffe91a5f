"""Reproducible random numbers without state: each number is a hash of its key."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt


def mixed(x: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Hash 64-bit integers (the finalizer of SplitMix64); keeps the shape."""
    z = x.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def hashes(strings: Iterable[str]) -> npt.NDArray[np.uint64]:
    """``(n,)``: a 64-bit hash of each string (BLAKE2b)."""
    digests = bytearray()
    for text in strings:
        digests += hashlib.blake2b(text.encode(), digest_size=8).digest()
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def hashed(*key: int | npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each combination of keys. Keys are arrays and integers >= 0, which are broadcast."""
    state = np.zeros(1, dtype=np.uint64)
    for part in key:
        state = mixed(state ^ np.asarray(part).astype(np.uint64))
    return state


def fraction(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Map 64 random bits to a number in [0, 1)."""
    return np.asarray((bits >> np.uint64(11)) * 2.0**-53)


def uniform(*key: int | npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """A uniform random number in [0, 1) for each combination of keys (see :func:`hashed`)."""
    return fraction(hashed(*key))
