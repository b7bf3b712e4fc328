"""Gains of the clean step as a linear map: along the error it is handed (tangent), and in the worst direction.

The secant gain |F(y) - F(x)| / |y - x| of the decomposition holds for the error as large as it is; these hold for an
infinitely small one. A step's map F is any function of states [lane, sample, channel, y, x] that treats every sample
by itself, so the Jacobian is taken for all samples of a batch at once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

StepMap = Callable[[Tensor], Tensor]

RELATIVE_STEP = 1.6e-3
"""h / |x| of the central differences: within 6e-5 of the derivative in float32 (measured)."""
CARRYING_STEP = {torch.float32: 4e-4, torch.float64: 1e-5}
"""h / |x| by dtype of the central differences that carry an error through a whole run (`reach`).

Measured on the embedded SD3 (28 steps, float32, R4S32, three samples) against torch.func.jvp with the math attention
kernel: the carried error ends within 2e-4 of it (1.1e-3 with h / |x| = 5e-5, 2e-3 with 1.6e-3). Forward differences,
one evaluation less, end within 3e-3 at best (5e-5) and 1.6e-2 at this h.
"""
PRODUCTS = 10
"""Lanczos steps of `worst_gain`, each a product with J and one with its transpose."""
TANGENT_COST, WORST_COST = 2, 1 + 4 * PRODUCTS
"""Evaluations per sample: a central difference; one forward pass, and per product two and a backward pass, as two."""


def tangent_gain(step: StepMap, x: Tensor, errors: Tensor) -> Tensor:
    """|J u| with J the Jacobian of `step` at `x` [sample, ...] and u = error / |error|: [error, sample].

    `errors` [error, sample, ...]. Central difference; NaN where the error is 0.
    """
    size = norms(errors)
    directions = errors / _column(size.clamp_min(torch.finfo(x.dtype).tiny), errors)
    return torch.where(size > 0, norms(_along(step, x, directions)), torch.nan)


def worst_gain(step: StepMap, x: Tensor, start: Tensor, products: int = PRODUCTS) -> Tensor:
    """The largest singular value of the Jacobian of `step` at `x` [sample, ...], one per sample.

    Golub-Kahan-Lanczos bidiagonalisation from the direction `start`, fully reorthogonalised; products with J by central
    differences, with its transpose by one backward pass each, so `step` must be differentiable by torch. A lower bound
    that 10 products bring within 4e-4 where the top of the spectrum stands apart (docs/science.md, "Gains"), and within
    1% where 64 modes crowd together (tested). Raises RuntimeError where torch cannot differentiate.
    Source: Golub and Kahan 1965, "Calculating the singular values and pseudo-inverse of a matrix".
    """
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_(True)
        landed = step(leaf[None])[0]
    if not landed.requires_grad:
        raise RuntimeError("--record worst needs a network that torch can differentiate; this one returns constants")

    def transposed(u: Tensor) -> Tensor:
        return torch.autograd.grad(landed, leaf, u, retain_graph=True)[0]

    v = start / _column(norms(start), start)
    right, left = [v], list[Tensor]()
    diagonal, above = list[Tensor](), list[Tensor]()
    for _ in range(products):
        u = _orthogonal(_along(step, x, right[-1][None])[0], left)
        diagonal.append(norms(u))
        left.append(_unit(u, diagonal[-1]))
        v = _orthogonal(transposed(left[-1]), right)
        above.append(norms(v))
        right.append(_unit(v, above[-1]))
    bidiagonal = torch.diag_embed(torch.stack(diagonal, -1)) + torch.diag_embed(torch.stack(above[:-1], -1), offset=1)
    return torch.linalg.svdvals(bidiagonal.double())[..., 0].to(x.dtype)


def reach(x: Tensor, tangent: Tensor) -> Tensor:
    """How often `tangent` [sample, ...] is added to x and taken from it for a central difference along it.

    Shape [sample, 1, ...], so that |reach tangent| = h; 1 where the tangent is 0.
    """
    size, h = norms(tangent), CARRYING_STEP.get(x.dtype, RELATIVE_STEP) * norms(x)
    return _column(torch.where(size > 0, h / torch.where(size > 0, size, 1.0), 1.0), x)


def norms(x: Tensor) -> Tensor:
    """Euclidean norm over (channel, y, x), accumulated in float64."""
    return torch.linalg.vector_norm(x.flatten(-3), dim=-1, dtype=torch.float64).to(x.dtype)


def _along(step: StepMap, x: Tensor, directions: Tensor) -> Tensor:
    """J u for unit directions [direction, sample, ...]."""
    h = _column(RELATIVE_STEP * norms(x), x)
    ahead, behind = step(torch.cat([x + h * directions, x - h * directions])).chunk(2)
    return (ahead - behind) / (2 * h)


def _orthogonal(vector: Tensor, basis: list[Tensor]) -> Tensor:
    """`vector` without its parts along `basis`, twice (once leaves rounding of the first pass)."""
    for _ in range(2):
        for unit in basis:
            vector = vector - _column((vector.double() * unit.double()).flatten(-3).sum(-1).to(vector), vector) * unit
    return vector


def _unit(vector: Tensor, size: Tensor) -> Tensor:
    """Zero where the space is exhausted, which leaves the singular values found so far as they are."""
    return torch.where(_column(size, vector) > 0, vector / _column(size, vector), 0.0)


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(*values.shape, *[1] * (like.ndim - values.ndim))
