"""What the forwards inside an `attend` context are told (step, lanes) and what they measured, on the model's layout.

It computes the statistics of a call but changes nothing: that is `attend` and `lanes`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from interventions.errors import SpecError, spec_error
from interventions.families import Clean, Intervention, KeyRemoval
from interventions.layout import PADDING, TEXT, TokenLayout
from interventions.seam.calls import Call, Pieces
from interventions.seam.mass import attention_statistics
from interventions.seam.sites import SeamError, Site

RECORDS = ("mass", "mass-per-head", "entropy", "sinks")


@dataclass
class Recorder:
    """The state of one `attend` context. `begin` before a forward, `take` after it; the rest is for `attend`."""

    sites: tuple[Site, ...]
    layout: TokenLayout
    seed: int = 0
    samples: tuple[int, ...] | None = None
    record: tuple[str, ...] = ()
    top: int = 5
    lanes: tuple[Intervention, ...] = ()
    padding: torch.Tensor | None = field(default=None, repr=False)  # bool [half, sample, text token]
    watch: Callable[[Site, Call], None] | None = field(default=None, repr=False)
    step: int | None = None
    steps: int | None = None
    nested: bool = False
    ran: bool = False
    reached: set[int] = field(default_factory=set)  # indices of the sites that ran
    masks: dict[tuple, torch.Tensor] = field(default_factory=dict, repr=False)
    measured: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict, repr=False)  # per site, [batch, ...]

    def __post_init__(self) -> None:
        """Refuse names that cannot be recorded and lanes that cannot run."""
        unknown = sorted(set(self.record) - set(RECORDS))
        if unknown:
            raise SpecError(f"record {', '.join(unknown)}: it is one of {', '.join(RECORDS)} (for example mass)")
        self.lanes = self._checked(self.lanes)

    def begin(self, step: int, steps: int, interventions: Intervention | Sequence[Intervention] | None = None) -> None:
        """Say which step of how many the next forward is and, if they change, the lanes of its batch."""
        if not 0 <= step < steps:
            raise ValueError(f"step {step} is not one of 0 to {steps - 1}")
        self.step, self.steps = step, steps
        if interventions is not None:
            lanes = (interventions,) if isinstance(interventions, Intervention) else tuple(interventions)
            self.lanes = self._checked(lanes)
        self.measured.clear()

    def take(self, per: str = "layer") -> dict[str, torch.Tensor]:
        """What the last forward measured, as [halves, lanes, samples, layers, ...]; empty if nothing is recorded.

        "mass_layer" [..., tokens] (mean over heads) and "mass" [..., heads, tokens]: the attention a key receives from
        all queries, as it was paid, masks and removals included; its sum over the keys of one call is 1. "entropy"
        [..., heads], in nat. "sink_token", "sink_mass" [..., heads, top]: the keys of most mass. "removed_token",
        "removed_mass" [..., heads, k]: the keys that were suppressed and the mass they had before. Missing values are
        NaN, missing tokens -1; tokens are those of the layout.

        `per`: "layer" has one entry for the calls of a block; the first call to cover a token, or to have the value,
        counts (SD3.5's second attention is left out; a UNet's self attention gives the image tokens and its cross
        attention the text tokens). "site" has one entry for each attention module, in the order of `sites`.
        """
        if not self.measured:
            return {}
        groups: dict[int, list[dict[str, torch.Tensor]]] = {}
        for site in self.sites:
            if site.index in self.measured:
                groups.setdefault(site.layer if per == "layer" else site.index, []).append(self.measured[site.index])
        merged = [_merged(group) for group in groups.values()]
        self.measured.clear()
        names = dict.fromkeys(name for found in merged for name in found)
        return {name: self._stacked([found.get(name) for found in merged]) for name in names}

    def _stacked(self, values: list[torch.Tensor | None]) -> torch.Tensor:
        """[batch, ...] of every layer, padded to a common size -> [halves, lanes, samples, layers, ...]."""
        present = [value for value in values if value is not None]
        shape = tuple(map(max, *(value.shape for value in present))) if len(present) > 1 else tuple(present[0].shape)
        absent = _padded(present[0][:0], shape)
        stacked = torch.stack([absent if value is None else _padded(value, shape) for value in values], dim=1)
        return stacked.unflatten(0, (-1, len(self.lanes), self.block(shape[0])))

    def block(self, batch: int) -> int:
        """Rows of one lane in one half of a batch. Raises ValueError if the batch is not made of whole lanes."""
        lanes = len(self.lanes)
        block, rest = divmod(batch, lanes) if self.samples is None else (len(self.samples), 0)
        if rest or not block or batch % (block * lanes):
            samples = "" if self.samples is None else f" x {len(self.samples)} samples"
            raise ValueError(f"a batch of {batch} rows is not a multiple of {lanes} lanes{samples}")
        return block

    def sample_seeds(self, rows: slice, batch: int, device: torch.device) -> torch.Tensor:
        """The sample seed of each row, int64."""
        block = self.block(batch)
        seeds = range(block) if self.samples is None else self.samples
        numbers = [seeds[row % block] % 2**63 for row in range(rows.start, rows.stop)]
        return torch.tensor(numbers, dtype=torch.int64, device=device)

    def kinds(self, kinds: torch.Tensor, rows: slice, batch: int, keys: TokenLayout) -> torch.Tensor:
        """`sinks.candidates` [keys], or row by row [rows, 1, keys] where it is known which text is padding."""
        if self.padding is None or not keys.text:
            return kinds
        block = self.block(batch)
        if self.padding.shape != (batch // (block * len(self.lanes)), block, keys.text):
            raise ValueError(
                f"padding {tuple(self.padding.shape)}: this batch has {batch // (block * len(self.lanes))} halves of "
                f"{block} samples with {keys.text} text tokens"
            )
        numbers = torch.arange(rows.start, rows.stop)
        filled = self.padding[numbers // (block * len(self.lanes)), numbers % block].to(kinds.device)
        text = kinds[keys.size - keys.text :]
        named = torch.where(filled & (text == TEXT), PADDING, text)
        return torch.cat([kinds[: keys.size - keys.text].expand(len(named), -1), named], dim=1).unsqueeze(1)

    def acting(self, lane: Intervention, site: Site) -> bool:
        """Whether a lane's intervention changes anything at this site in the current step."""
        if isinstance(lane, Clean) or lane.scope.strength == 0:
            return False
        if self.step is None or self.steps is None:
            if lane.scope.steps is not None or lane.scope.pause is not None:
                raise SeamError(f"{lane} names steps: call recorder.begin(step, steps) before each forward")
            return lane.acts(site.layer, 0, 1)
        return lane.acts(site.layer, self.step, self.steps)

    def measure(self, site: Site, call: Call, rows: slice, pieces: Pieces) -> None:
        """Compute and keep what `record` names, for some rows of a call that is answered by these pieces."""
        if not self.record:
            return
        _, keys = self.layouts(site, call)
        total, weighted = None, None
        for _, piece in pieces:
            share = piece.share * piece.lengths[0] / call.lengths[0]
            mass, entropy = attention_statistics(
                piece.query, piece.key, piece.bias(), piece.scale, entropy="entropy" in self.record
            )
            total = mass * share if total is None else total + mass * share
            if entropy is not None:  # unknown for a mixture of two softmaxes
                entropy = entropy * share if piece.share == 1 else torch.full_like(entropy, float("nan"))
                weighted = entropy if weighted is None else weighted + entropy
        assert total is not None
        if "mass" in self.record:
            self.keep(site, call.batch, rows, "mass_layer", spread(total.mean(1), keys, self.layout))
        if "mass-per-head" in self.record:
            self.keep(site, call.batch, rows, "mass", spread(total, keys, self.layout))
        if weighted is not None:
            self.keep(site, call.batch, rows, "entropy", weighted)
        if "sinks" in self.record:
            most = total.topk(min(self.top, total.shape[-1]))
            self.keep(site, call.batch, rows, "sink_token", self.tokens(most.indices, keys))
            self.keep(site, call.batch, rows, "sink_mass", most.values)
            if "removed_token" not in self.measured[site.index]:  # missing, unless a lane removes keys
                self.keep(site, call.batch, rows, "removed_token", torch.full_like(most.indices[..., :1], -1))
                self.keep(site, call.batch, rows, "removed_mass", torch.full_like(most.values[..., :1], float("nan")))

    def layouts(self, site: Site, call: Call) -> tuple[TokenLayout, TokenLayout]:
        """What the query and key tokens of a call are; queries of a pooling layer count as prefix tokens."""
        queries, keys = call.lengths
        if queries != keys == self.layout.size and not site.cross:
            return TokenLayout((0, 0), prefix=queries), self.layout
        query_layout, key_layout = self.layout.for_call(queries, keys, cross=site.cross)
        assert query_layout is not None
        assert key_layout is not None
        return query_layout, key_layout

    def keep(self, site: Site, batch: int, rows: slice, name: str, value: torch.Tensor) -> None:
        """Keep a value [rows, ...] of some rows of a batch; the other rows are missing until they are kept too."""
        found = self.measured.setdefault(site.index, {})
        before = found.get(name, value[:0])
        shape = (batch, *map(max, before.shape[1:], value.shape[1:]))
        found[name] = _padded(before, shape)
        found[name][(rows, *(slice(n) for n in value.shape[1:]))] = value

    def tokens(self, indices: torch.Tensor, keys: TokenLayout) -> torch.Tensor:
        """Token numbers of the model's layout for key indices of a call."""
        return positions(keys, self.layout).to(indices.device)[indices]

    def note_forward(self, *_: object) -> None:
        """Remember that the model ran: the hook that `attend` sets, in case no site is ever reached."""
        self.ran = True

    def check_reached(self) -> None:
        """Raise `SeamError` if forwards ran but some site was never part of one."""
        missed = [site.name for site in self.sites if site.index not in self.reached]
        if missed and (self.ran or self.reached):
            raise SeamError(
                f"forwards ran without these attention modules: {', '.join(missed)}; "
                "give attend the part of the model that runs (for example the image tower)"
            )

    def _checked(self, lanes: tuple[Intervention, ...]) -> tuple[Intervention, ...]:
        """The lanes, after making sure that this model has the layers they name and the batch the lane they look at."""
        if not lanes:
            raise ValueError("no lane: give at least one intervention, e.g. parse('clean')")
        if self.nested and len(lanes) > 1:
            raise SeamError("nested attend contexts take one lane each")
        layers = 1 + max(site.layer for site in self.sites)
        for lane in lanes:
            if lane.scope.layers and max(lane.scope.layers) >= layers:
                raise spec_error(f"{lane}: layers", f"the model has layers 0 to {layers - 1}", f"layers={layers // 2}")
            if isinstance(lane, KeyRemoval) and lane.scope.source == "clean":
                self._require_clean(lane, lanes)
        return lanes

    def _require_clean(self, lane: Intervention, lanes: tuple[Intervention, ...]) -> None:
        if not any(isinstance(other, Clean) for other in lanes):
            raise spec_error(
                f"{lane}: source=clean", "no lane of this batch is clean", "attend(model, [parse('clean'), ...])"
            )


def _merged(group: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Several calls of one block as one: what the first lacks is taken from the next."""
    merged = dict(group[0])
    for other in group[1:]:
        for name, value in other.items():
            have = merged.setdefault(name, value)
            shape = tuple(map(max, have.shape, value.shape))
            have, value = _padded(have, shape), _padded(value, shape)
            merged[name] = torch.where(have.isnan() if have.is_floating_point() else have < 0, value, have)
    return merged


def _padded(value: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The value in the corner of a larger tensor, missing elsewhere: NaN, or -1 for integers."""
    if tuple(value.shape) == shape:
        return value
    padded = value.new_full(shape, float("nan") if value.is_floating_point() else -1)
    padded[tuple(slice(n) for n in value.shape)] = value
    return padded


def spread(mass: torch.Tensor, call: TokenLayout, layout: TokenLayout) -> torch.Tensor:
    """Mass [..., keys of a call] on the tokens of the model's layout, NaN where the call has no such token.

    At a coarser resolution a key's mass is divided evenly among the layout's tokens it covers, at a finer one the
    masses of the keys in a token are added, so that the sum stays what it was.
    """
    if call == layout:
        return mass
    out = mass.new_full((*mass.shape[:-1], layout.size), float("nan"))
    where = positions(call, layout).to(mass.device)
    if call.image_tokens:
        out[..., layout.image] = 0
    if call.image_tokens and call.image_tokens < layout.image_tokens:
        cover = _covering(call, layout).to(mass.device)
        image = mass[..., call.image][..., cover] / torch.bincount(cover, minlength=call.image_tokens)[cover]
        out[..., layout.image] = image
    else:
        out.index_add_(-1, where[call.image], mass[..., call.image])
    rest = [*range(call.image.start), *range(call.image.stop, call.size)]
    out[..., where[rest]] = mass[..., rest]
    return out


@functools.lru_cache(maxsize=64)
def positions(call: TokenLayout, layout: TokenLayout) -> torch.Tensor:
    """For each token of a call the (first) token of the model's layout that it stands for, int64."""
    if call == layout:
        return torch.arange(layout.size)
    (height, width), (high, wide) = layout.grid, call.grid
    y, x = torch.meshgrid(torch.arange(high), torch.arange(wide), indexing="ij")
    rows, columns = (-(-y * height // max(high, 1)), -(-x * width // max(wide, 1)))
    if call.image_tokens > layout.image_tokens:
        rows, columns = y * height // high, x * width // wide
    image = layout.prefix + (rows * width + columns).flatten()
    prefix = torch.arange(call.prefix)
    return torch.cat([prefix, image, layout.image.stop + torch.arange(call.text)])


@functools.lru_cache(maxsize=64)
def _covering(call: TokenLayout, layout: TokenLayout) -> torch.Tensor:
    """For each image token of the model's layout the key of a coarser call that covers it."""
    (height, width), (high, wide) = layout.grid, call.grid
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (y * high // height * wide + x * wide // width).flatten()
