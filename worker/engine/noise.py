"""Gumbel noise that is a function of seed, step and token: the same in every batch and order.

The arithmetic is that of integers which wrap around, so CPU and accelerators agree on every bit of
it; only the two logarithms at the end may differ in their last digit.
"""

from __future__ import annotations

import torch

_BITS = 23
"""Of a uniform number: with one half added it is still exact in float32, and neither 0 nor 1."""


def gumbel(seeds: torch.Tensor, steps: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Independent standard Gumbel numbers: adding them to logits makes the argmax a draw.

    Args:
        seeds: [R] int64.
        steps: [R] int64, tokens drawn before.
        tokens: [R, N] or [N] int64, below 2³¹.

    Returns:
        [R, N] float32.
    """
    key = _mix64(_mix64(seeds) + steps)[:, None]
    bits = tokens.int() + _int32(key)
    _xor_shifted(bits, 16).mul_(0x7FEB352D)
    # The second half of the key: without it, rows would see shifted parts of one sequence.
    bits.bitwise_xor_(_int32(_shifted(key, 32, 64)))
    _xor_shifted(bits, 15).mul_(0x846CA68B - 2**32)
    _xor_shifted(bits, 16)
    uniform = _shifted(bits, 32 - _BITS, 32).float().add_(0.5).mul_(2.0**-_BITS)
    return uniform.log_().neg_().log_().neg_()


def _mix64(x: torch.Tensor) -> torch.Tensor:
    """Spread every bit of int64 over all bits, as SplitMix64 does."""
    x = x + (0x9E3779B97F4A7C15 - 2**64)
    x = (x ^ _shifted(x, 30, 64)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ _shifted(x, 27, 64)) * (0x94D049BB133111EB - 2**64)
    return x ^ _shifted(x, 31, 64)


def _xor_shifted(x: torch.Tensor, count: int) -> torch.Tensor:
    return x.bitwise_xor_(_shifted(x, count, 32))


def _shifted(x: torch.Tensor, count: int, width: int) -> torch.Tensor:
    """x >> count as if it had no sign."""
    return (x >> count).bitwise_and_((1 << (width - count)) - 1)


def _int32(x: torch.Tensor) -> torch.Tensor:
    """The lower half of int64, as int32."""
    return (((x & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000).int()
