"""Numbers as if drawn at random, always the same: hashes of keys, so that nothing need be remembered to draw them again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def mixed(x: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Numbers to numbers as if at random, always the same (the finalizer of SplitMix64)."""
    z = x.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def hashes(strings: Sequence[str]) -> npt.NDArray[np.uint64]:
    """64 bits for each string."""
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in strings)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def hashed(*key: int | npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """64 bits for each combination of keys, as if drawn at random; arrays and integers (from 0) are broadcast."""
    state = np.zeros(1, dtype=np.uint64)
    for part in key:
        state = mixed(state ^ np.asarray(part).astype(np.uint64))
    return state


def fraction(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1) of 64 bits each."""
    return np.asarray((bits >> np.uint64(11)) * 2.0**-53)


def uniform(*key: int | npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each combination of keys (see :func:`hashed`)."""
    return fraction(hashed(*key))
