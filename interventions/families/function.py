"""Attention by a function of the user's: what it gives stands in the place of an attention call's output.

No spec says what a function does, so it is made in Python: `Function("mine", f)`, or `tracer.arm("mine", attention=f)`.
The seam calls it (`seam.functions`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from interventions.errors import spec_error
from interventions.families.base import OnCalls
from interventions.given import check_name, of_function


@dataclass(frozen=True)
class Function(OnCalls):
    """A function f(q, k, v, mask) -> output, under a name of the user's own.

    q, k, v: tensors [rows, heads, tokens, head_dim]; mask: what the model forbids, bool (True = allowed) or additive,
    or None; the output is that of q's tokens and v's width. A function that takes `scale` is handed the model's own,
    None for 1 / sqrt(head_dim); so `torch.nn.functional.scaled_dot_product_attention` is one. It sees whole calls:
    heads and queries of the scope say where its output is taken, a dose a mixes it with the stock output.
    """

    called: str
    function: Callable[..., Any]
    noun: ClassVar[str] = "function"
    example: ClassVar[str] = "tracer.arm('mine', attention=function)"

    def __post_init__(self) -> None:
        """Refuse what cannot be called, and names that are none or are a spec."""
        check_name(self.called)
        if not callable(self.function):
            raise spec_error(f"{self.called}: {self.function!r}", "it is no function of (q, k, v, mask)", self.example)
        super().__post_init__()

    @classmethod
    def read(cls, head: str) -> None:
        """Return None: a function is not written as a spec."""
        return

    @property
    def name(self) -> str:
        """The spec without its scope."""
        return self.called

    @property
    def family(self) -> str:
        """Name of the family."""
        return "function"

    @property
    def where(self) -> str:
        """Where the function is defined, as module:qualname."""
        return of_function(self.function).split()[0]

    @property
    def parameters(self) -> dict[str, object]:
        """Where the function is defined."""
        return {"function": self.where}

    def fingerprint(self, network: object = None) -> str:
        """Module, name and source of the function."""
        return of_function(self.function)
