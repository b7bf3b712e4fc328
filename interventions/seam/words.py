"""How much image queries attend to text keys: of one call, and of all calls of a forward together.

The probabilities of the chosen keys alone are kept, [queries, keys], mean over heads; a matrix of all queries by all
keys is never held. What the words of a prompt are is not known here: a key is a token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from interventions.layout import TokenLayout
from interventions.seam import blocked
from interventions.seam.calls import Call
from interventions.seam.tokens import laid


@torch.no_grad()
def attention_to(call: Call, keys: torch.Tensor, lse: torch.Tensor | None = None) -> torch.Tensor:
    """The softmax attention of every query to some keys, mean over heads: [rows, queries, chosen keys].

    keys: numbers of the chosen ones, int64. lse [rows, heads, queries]: log-sum-exp of this call's scores over all
    keys, in nat, from whoever has just run it; without it the scores of all keys are made, some queries at a time.
    float32, or float64 for such inputs. A query without any allowed key attends to nothing.
    """
    scale = 1 / math.sqrt(call.query.shape[-1]) if call.scale is None else call.scale
    bias = call.bias()
    if bias is not None:
        bias = bias.reshape((1,) * (4 - bias.dim()) + tuple(bias.shape))
    if lse is None:
        answer = blocked.attention(call.query, call.key, None, bias, scale, mass=False, to=keys)
        assert answer.to is not None
        return answer.to
    dtype = call.query.dtype if call.query.dtype == torch.float64 else torch.float32
    heads = call.query.shape[1]
    total = call.query.new_zeros(call.batch, call.lengths[0], len(keys), dtype=dtype)
    for head in range(heads):
        scores = call.query[:, head].to(dtype) @ call.key[:, head, keys].to(dtype).mT * scale
        if bias is not None:
            scores += bias[:, head if bias.shape[1] > 1 else 0][..., keys].to(dtype)
        total += scores.sub_(lse[:, head, :, None].to(dtype)).exp_().nan_to_num_(0.0)
    return total.div_(heads)


@dataclass
class Total:
    """The mean over the calls of a forward, on the tokens of the model's layout: [rows, text tokens, image tokens].

    A call counts where its keys have text and its queries image tokens. Queries at a coarser resolution stand for all
    tokens that they cover, those at a finer one are averaged.
    """

    layout: TokenLayout
    sums: torch.Tensor | None = field(default=None, repr=False)
    calls: set[int] = field(default_factory=set)

    def add(self, site: int, rows: slice, batch: int, value: torch.Tensor, queries: TokenLayout) -> None:
        """Add what image queries [rows, text keys, image queries] of a call paid; the rows of so many in all."""
        placed = laid(value, TokenLayout(queries.cells), TokenLayout(self.layout.cells))
        if self.sums is None:
            self.sums = placed.new_zeros(batch, self.layout.text, self.layout.image_tokens)
        known = min(placed.shape[1], self.layout.text)  # words beyond those of the layout have no place
        self.sums[rows, :known] += placed[:, :known]
        self.calls.add(site)

    def mean(self) -> torch.Tensor | None:
        """[rows, text tokens, image tokens], None if no call had both."""
        return None if self.sums is None else self.sums / len(self.calls)


def text_keys(keys: TokenLayout, device: torch.device) -> torch.Tensor:
    """The numbers of the text tokens among the keys of a call, int64 on the device."""
    return torch.cat(
        [
            torch.arange(0, device=device),
            *(torch.arange(run.start, run.stop, device=device) for run in keys.runs("text")),
        ]
    )
