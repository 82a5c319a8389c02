"""Gumbel noise that is a function of seed, step and token: the same in every batch and order.

The arithmetic is that of integers which wrap around, so CPU and accelerators agree on every bit of
it; only the two logarithms at the end may differ in their last digit.
"""

from __future__ import annotations

import torch

_BITS = 23
"""Of a uniform number: with one half added it is still exact in float32, and neither 0 nor 1."""


class Gumbel:
    """Independent standard Gumbel numbers: adding them to logits makes the argmax a draw."""

    def __init__(self, seeds: torch.Tensor, steps: torch.Tensor) -> None:
        """Noise of R rows: seeds [R] int64, and how many tokens were drawn before, [R] int64."""
        key = _mix64(_mix64(seeds) + steps)[:, None]
        self._low, self._high = _int32(key), _int32(_shifted(key, 32))

    def of(self, tokens: torch.Tensor) -> torch.Tensor:
        """The numbers [R, N] float32 of tokens [R, N] or [N], int64 below 2³¹."""
        bits = tokens.int() + self._low
        # Shifts keep the sign here: that clears the highest bit, and the others are as good.
        bits.bitwise_xor_(bits >> 16).mul_(0x7FEB352D)
        # The other half of the key: without it, rows would see shifted parts of one sequence.
        bits.bitwise_xor_(self._high)
        bits.bitwise_xor_(bits >> 15).mul_(0x846CA68B - 2**32)
        bits.bitwise_xor_(bits >> 16)
        uniform = (bits >> (31 - _BITS)).float().add_(0.5).mul_(2.0**-_BITS)
        return uniform.log_().neg_().log_().neg_()


def _mix64(x: torch.Tensor) -> torch.Tensor:
    """Spread every bit of int64 over all bits, as SplitMix64 does."""
    x = x + (0x9E3779B97F4A7C15 - 2**64)
    x = (x ^ _shifted(x, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ _shifted(x, 27)) * (0x94D049BB133111EB - 2**64)
    return x ^ _shifted(x, 31)


def _shifted(x: torch.Tensor, count: int) -> torch.Tensor:
    """x >> count, of int64, as if it had no sign."""
    return (x >> count) & ((1 << (64 - count)) - 1)


def _int32(x: torch.Tensor) -> torch.Tensor:
    """The lower half of int64, as int32."""
    return (((x & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000).int()
