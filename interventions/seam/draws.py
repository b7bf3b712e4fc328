"""Chance inside attention: which random keys come first, and the noise in place of values.

Counter-based: a number follows from (mask seed, site, step, sample, head, token) alone, in integers, so it is the same
on every device, in every batch and in both guidance halves.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

_NOISE = 0x6E6F697365  # sets the stream of noise apart from that of priorities
_BITS = 16  # of a normal number: one of 2^16 quantiles


@dataclass(frozen=True)
class Draw:
    """Whose numbers are drawn: the mask seed, the sample seed of every row (int64 [rows]), the site, the step."""

    seed: int
    samples: torch.Tensor
    site: int
    step: int

    def priorities(self, heads: int, keys: int, *, fresh: bool) -> torch.Tensor:
        """Non-negative int64 [rows, heads, keys]: the largest comes first. Not fresh: the same at every step."""
        state = self._rows((self.seed, self.site, self.step if fresh else -1))
        state = _mix(state + torch.arange(heads, device=state.device)[:, None])
        return _mix(state + torch.arange(keys, device=state.device)) & (2**63 - 1)

    def normal(self, tokens: torch.Tensor, channels: int, *, fresh: bool) -> torch.Tensor:
        """Standard normal float32 [rows, heads, n, channels] that belong to these tokens [rows, heads, n]."""
        state = self._rows((_NOISE, self.seed, self.site, self.step if fresh else -1))
        state = _mix(state + torch.arange(tokens.shape[1], device=state.device)[:, None])
        state = _mix(_mix(state + tokens).unsqueeze(-1) + torch.arange(channels, device=state.device))
        return _quantiles(state.device)[state & (2**_BITS - 1)]

    def _rows(self, moment: tuple[int, ...]) -> torch.Tensor:
        """The state of every row, int64 [rows, 1, 1]."""
        state = torch.zeros((), dtype=torch.int64, device=self.samples.device)
        for number in moment:
            state = _mix(state + number)
        return _mix(state + self.samples[:, None, None])


@functools.lru_cache(maxsize=8)
def _quantiles(device: torch.device) -> torch.Tensor:
    """Quantiles of the normal distribution in equal steps of probability, scaled to variance 1, float32; up to 4.3."""
    values = torch.special.ndtri((torch.arange(2**_BITS, dtype=torch.float64) + 0.5) / 2**_BITS)
    return (values / values.square().mean().sqrt()).float().to(device)


def _mix(x: torch.Tensor) -> torch.Tensor:
    """One output of the splitmix64 generator for a state, in wrapping int64 arithmetic."""
    x = x + (0x9E3779B97F4A7C15 - 2**64)
    x = (x ^ _shifted(x, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ _shifted(x, 27)) * (0x94D049BB133111EB - 2**64)
    return x ^ _shifted(x, 31)


def _shifted(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical (unsigned) right shift."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
