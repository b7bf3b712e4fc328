"""Multiply-adds of a forward: counted by torch, and missing where a kernel has no formula, never guessed.

`torch.utils.flop_counter` knows matrix products, convolutions and fused attention. It passes over everything else in
silence, so here every operator that ran is looked at as well: one that may multiply matrices and has no formula makes
the count None. Products with integer weights count like any other: an int8 multiply-add is one multiply-add.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop

_aten = torch.ops.aten
_MULTIPLIES = re.compile(
    r"^(?!upsample).*(mm(?![a-z])|matmul|linear|conv|attention|dot|gru|lstm|rnn|addmv|\bmv\b|addr|_cdist)"
)
"""Names of operators that multiply and add over a shared axis; an interpolation between neighbours is none."""
_NO_PRODUCT = {"prim", "prims", "profiler", "debugprims"}
"""Namespaces besides aten in which nothing is multiplied."""


def _attention(query: Any, key: Any, value: Any, *rest: Any, out_shape: Any = None, **named: Any) -> int:
    """Of fused attention on a CPU, which torch's own registry lacks."""
    return int(sdpa_flop(query, key, value))


def _product(x: Any, weight: Any, *rest: Any, out_shape: Any = None, **named: Any) -> int:
    """Of x [..., k] with packed weights: every output is a sum over the k entries of a row."""
    return int(2 * math.prod(out_shape) * x[-1])


_FORMULAS = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._int_mm: _product,
    _aten._weight_int8pack_mm: _product,
    _aten._weight_int4pack_mm: _product,
    _aten._weight_int4pack_mm_for_cpu: _product,
}
"""Operator -> its formula: twice its multiply-adds, as torch counts; arguments are shapes."""


class _Watch(TorchDispatchMode):
    """Remembers the operators that may multiply and have no formula."""

    def __init__(self) -> None:
        super().__init__()
        self.unknown: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at the operator's name, and run it."""
        packet = getattr(func, "_overloadpacket", None)
        if packet is None or (packet not in flop_registry and packet not in _FORMULAS and _may_multiply(func)):
            self.unknown.add(str(func))
        return func(*args, **(kwargs or {}))


def _may_multiply(func: Any) -> bool:
    space, _, name = func._schema.name.partition("::")
    return space not in _NO_PRODUCT and (space != "aten" or bool(_MULTIPLIES.search(name)))


def multiply_adds(forward: Callable[[], Any]) -> tuple[float | None, str]:
    """Multiply-adds of what `forward()` runs, and why they are not known ("" where they are).

    Elementwise work, normalisation and softmax are no multiply-adds. None where an operator has no formula, where one
    comes from elsewhere than torch, and where the counting itself fails. Kernels that torch does not see, such as those
    of Triton called without an operator, cannot be noticed: who runs such a kernel has to say so (`Change.countable`).
    """
    watch, counter = _Watch(), FlopCounterMode(display=False, custom_mapping=dict(_FORMULAS))
    try:
        with watch, counter:
            forward()
    except (NotImplementedError, RuntimeError, TypeError, AssertionError) as error:
        return None, f"counting failed ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
    if watch.unknown:
        return None, f"no formula for {', '.join(sorted(watch.unknown))}"
    return counter.get_total_flops() / 2, ""
