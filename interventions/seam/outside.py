"""Softmax attention that no site answers: found by looking at every PyTorch function of one forward.

A mask that reaches some of a model's attention and leaves the rest alone would be wrong in silence. So the first
forward of a context, and the first with inputs of another form, is watched as a whole; the others cost nothing.

Seen is every function or registered operator that is attention by name, and attention that is written out: a softmax
between two products of activations (a product with a parameter is none, so the softmax of a router is not taken for
it). Not seen is what PyTorch itself does not see: kernels that are not registered with it, TorchScript, a softmax made
of an exponential and a sum, and scores or weights that were copied into another tensor piece by piece.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from interventions.seam.sites import SeamError, Site

_PRODUCTS = {"matmul", "bmm", "mm", "baddbmm", "einsum", "__matmul__", "__rmatmul__"}
_SOFTMAXES = {"softmax", "special_softmax", "_softmax"}
_FUSED = "scaled_dot_product_attention"
_OTHERS = {"_transformer_encoder_layer_fwd"}  # attention, but not by name
_KEEPING = {  # what scores and weights remain under: elementwise functions and views
    *("add", "sub", "mul", "div", "true_divide", "where", "masked_fill", "clamp", "tanh", "dropout", "nan_to_num"),
    *("add_", "sub_", "mul_", "div_", "masked_fill_", "clamp_", "tanh_", "dropout_", "nan_to_num_"),
    *("__add__", "__radd__", "__iadd__", "__sub__", "__isub__", "__mul__", "__rmul__", "__imul__", "__truediv__"),
    *("to", "type", "type_as", "float", "half", "bfloat16", "double", "contiguous", "clone", "detach", "cat"),
    *("view", "reshape", "flatten", "unflatten", "permute", "transpose", "swapaxes", "movedim", "__get__", "expand"),
    *("unsqueeze", "squeeze", "__getitem__", "narrow", "select", "chunk", "split", "unbind", "__itruediv__"),
}
_MIXING = {"linear", "conv2d"}  # the heads of scores or weights [batch, query, key, head] (talking heads)


class Lookout(TorchFunctionMode):
    """Sees one forward of `model` and remembers the attention that no site answers; `check` raises for it.

    `answering()` says whether the seam itself is at work, which is not looked at.
    """

    def __init__(self, model: nn.Module, known: Sequence[Site], answering: Callable[[], bool]):
        super().__init__()
        self.model, self.answering = model, answering
        self.known = {site.module: site for site in known}
        self.found: list[tuple[str, nn.Module, str]] = []  # name and module that are nearest, function
        self.stages: WeakIdKeyDictionary = WeakIdKeyDictionary()  # tensor: "scores" or "weights"
        weights = (*model.parameters(), *model.buffers())
        self.weights = {_storage(weight) for weight in weights}

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run the function as it is, and see what it was."""
        result = func(*args, **(kwargs or {}))
        if not self.answering():
            name = getattr(func, "__name__", "").partition(".")[0]
            attention = self._attention(name, list(_tensors((args, kwargs or {}))), result)
            if attention:
                self._note(attention)
        return result

    def _attention(self, name: str, tensors: list[torch.Tensor], result: Any) -> str:
        """What kind of attention a function computed, empty if none; follows scores and weights on their way."""
        if "attention" in name or "attn" in name or name in _OTHERS:
            return name
        stages = {self.stages[tensor] for tensor in tensors if tensor in self.stages}
        if name in _PRODUCTS:
            if "weights" in stages:
                return "softmax and product"
            factors = tensors[-2:]
            if len(factors) == 2 and not any(_storage(factor) in self.weights for factor in factors):
                self._mark(result, "scores")
        elif name in _SOFTMAXES and "scores" in stages:
            self._mark(result, "weights")
        elif stages and (name in _KEEPING or (name in _MIXING and tensors[0].dim() > 3)):
            self._mark(result, "weights" if "weights" in stages else "scores")
        return ""

    def _mark(self, result: Any, stage: str) -> None:
        for tensor in _tensors(result):
            self.stages[tensor] = stage

    def _note(self, function: str) -> None:
        """Remember a call with the module that made it, unless it lies in a module that is left alone."""
        names = {module: name for name, module in self.model.named_modules()}
        around = [module for module in _modules_on_the_stack() if module in names]
        if not any(module in self.known and not self.known[module].reachable for module in around):
            nearest = around[0] if around else self.model
            site = next((module for module in around if module in self.known), nearest)
            self.found.append((names.get(site, ""), site, function))

    def check(self) -> None:
        """Raise `SeamError` if some attention was not answered; says where, and what to declare."""
        if not self.found:
            return
        fused: dict[str, int] = {}
        other: dict[str, str] = {}
        for name, module, function in self.found:
            if module in self.known:
                raise SeamError(
                    f"{name} computes attention besides its calls of F.{_FUSED} ({function}), which a mask would not "
                    "reach: set an attention processor that makes fused calls alone, like AttnProcessor2_0 of diffusers"
                )
            if function == _FUSED:
                fused[name] = fused.get(name, 0) + 1
            else:
                other.setdefault(name, f"{name or 'the model itself'} ({type(module).__name__}: {function})")
        where = [*(f"{name or 'the model itself'} ({_FUSED})" for name in fused), *other.values()]
        shown = ", ".join(where[:4]) + (f" and {len(where) - 4} more" if len(where) > 4 else "")
        raise SeamError(
            f"attention outside of every site, which no intervention would reach: {shown}; {_advice(fused, other)}"
        )


def _advice(fused: dict[str, int], other: Iterable[str]) -> str:
    """What to type for modules that make fused calls, and for those that compute attention otherwise."""
    make = f"make sites of them with attend(..., calls={fused})" if fused else ""
    leave = f"leave them alone with attend(..., unreachable={sorted({*fused, *other})}), which is recorded"
    return f"{make}, or {leave}" if make else leave


def _modules_on_the_stack() -> Iterator[nn.Module]:
    """The modules whose code is running, the innermost first."""
    frame = sys._getframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module):
            yield owner
        frame = frame.f_back  # type: ignore[assignment]


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested tuples, lists and dicts."""
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, tuple | list):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(tuple(values.values()))


def _storage(tensor: torch.Tensor) -> int:
    """What tells whether two tensors share their memory."""
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except (NotImplementedError, RuntimeError):  # quantized and other tensors without a storage of their own
        return id(tensor)


def form(values: Any) -> Any:
    """What may decide which way a forward takes: shapes, types, switches, lists of integers; no numbers in tensors."""
    if isinstance(values, torch.Tensor):
        return tuple(values.shape), values.dtype
    if isinstance(values, dict):
        return tuple((name, form(value)) for name, value in values.items())
    if isinstance(values, tuple | list):
        return tuple(value if isinstance(value, int) else form(value) for value in values)
    return values if values is None or isinstance(values, bool | str) else type(values)
