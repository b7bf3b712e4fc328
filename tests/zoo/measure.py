"""What a pipeline of the zoo does when it is traced, measured: a row of the table in docs/models.md.

Every number is a distance to something that the tracer has no part in: the pipeline's own plain call, or that call with
its attention written out densely and edited by what `Known` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tracer
from interventions import SeamError, SpecError, TokenLayout, attend, parse
from tests.zoo.entry import Entry, Known
from tests.zoo.noise import same_noise
from tests.zoo.plain import decoded, latents, plain
from tests.zoo.reference import Edit, ball, edited, without_sinks
from tracer import Sample
from tracer.denoisers.pipeline.pictures import pictures
from tracer.noise import sample_noise
from tracer.plan import plan

SEEDS = (0, 1)
MASK, SINKS = "R1S0", "sink-k1@keys=text"
LATER = 2
"""The first step of an arm that departs later."""
EDITS: dict[str, Edit] = {MASK: ball(1), SINKS: without_sinks(1, "text")}


@dataclass(frozen=True)
class Row:
    """What was found and measured of one pipeline; NaN where a measurement makes no sense.

    `found`: the tokens of the recorded call, in words. `agreement`: the probe's own number. `right`: share of the
    tokens of all attention calls whose kind and cell are those that `Known` says. `clean`: largest difference of the
    final state from the plain call's; `pictures`: of the pictures, in levels of 255. `unpacked`: how far the state is
    from what the decoder reads, but for a scale and a shift for each channel. `floor`: what the arm `full` changes of
    the final state. `identities`: largest difference of F(x) and G(y) asked again. `mask`, `fork`, `sinks`: of the
    final state under an arm from the dense reference's. `together`: of the final state when lanes go in one batch from
    that when each goes alone. `acts`: what the arms change that act in all steps, at the least; `departs`: what the one
    does that departs later. All from `unpacked` on but `identities` are relative, in the 2-norm. `refused`: what does
    not work, with the reason.
    """

    name: str
    family: str
    pipeline: str
    state: tuple[int, int, int, int] | None = None
    found: str = ""
    agreement: float = np.nan
    right: float = np.nan
    asked: int = 0
    sampler: str = ""
    prediction: str = ""
    noise: bool = False
    history: bool = False
    null: str = ""
    clean: float = np.nan
    pictures: float = np.nan
    unpacked: float = np.nan
    floor: float = np.nan
    identities: float = np.nan
    mask: float = np.nan
    fork: float = np.nan
    sinks: float = np.nan
    together: float = np.nan
    acts: float = np.nan
    departs: float = np.nan
    refused: tuple[str, ...] = ()


def measured(entry: Entry, folder: Path) -> Row:
    """Trace the pipeline under a mask, the same mask from step 2 on, and a removal of text sinks; compare.

    `folder`: where the run is written.
    """
    pipeline, call = entry.make()
    names = {"name": entry.name, "family": entry.family, "pipeline": type(pipeline).__name__}
    try:
        denoiser = tracer.from_pipeline(pipeline, **call)
    except (SeamError, SpecError, tracer.RunError, ValueError) as error:
        return Row(**names, refused=(str(error),))
    arms, refused = possible(denoiser)
    fork = f"{MASK}@steps={LATER}:{denoiser.schedule.steps}" if MASK in arms else None
    size = len(SEEDS) if denoiser.probed.uniform else 1
    every = [*arms, *([fork] if fork else [])]
    alone_why = goes_alone(denoiser, arms[0])
    denoiser.lanes.together = False  # so that what is equal is equal to the last bit
    run = traced(denoiser, every, size, folder / entry.name)
    final, ends = last_states(denoiser, run)
    in_one_batch = np.nan
    if not alone_why:
        denoiser.lanes.together = True
        _, again = last_states(denoiser, traced(denoiser, every, size, folder / f"{entry.name}-together"))
        denoiser.lanes.together = False
        in_one_batch = max(relative(again[arm], ends[arm]) for arm in ends)
    alone = partial(plain_call, denoiser, entry, size)
    own, shown, read = alone()
    distances = {arm: relative(ends[arm], alone(EDITS[arm])[0]) for arm in arms}
    if fork:
        distances[fork] = relative(ends[fork], alone(EDITS[MASK], LATER)[0])
    return Row(
        **names,
        state=(denoiser.probed.frames, denoiser.probed.channels, denoiser.probed.height, denoiser.probed.width),
        found=in_words(denoiser.layout, entry.known),
        agreement=denoiser.probed.agreement,
        right=tokens_right(denoiser.layout, entry.known),
        asked=entry.known.asked,
        sampler=type(pipeline.scheduler).__name__,
        prediction=denoiser.prediction,
        noise=denoiser.runs_itself.sampler.stochastic,
        history=bool(denoiser.runs_itself.sampler.history),
        null=denoiser.runs_itself.refused.get("null", ""),
        clean=float(np.abs(final - own).max()),
        pictures=float(np.abs(run["images/image"].sel(arm="clean").values.astype(int) - shown.astype(int)).max()),
        unpacked=unlike(read, own, denoiser.probed.frames),
        floor=relative(final, ends["full"]),
        identities=asked_again(denoiser, arms[0]),
        mask=distances.get(MASK, np.nan),
        fork=distances.get(fork, np.nan),
        sinks=distances.get(SINKS, np.nan),
        together=in_one_batch,
        acts=min(relative(final, ends[arm]) for arm in arms),
        departs=relative(final, ends[fork]) if fork else np.nan,
        refused=(*refused, *([f"lanes go one by one: {alone_why}"] if alone_why else [])),
    )


def possible(denoiser: Any) -> tuple[list[str], tuple[str, ...]]:
    """The arms that this pipeline can be traced under, and why it cannot under the others."""
    arms, refused = [], []
    how = {"calls": denoiser.probed.calls, "unreachable": denoiser.probed.unreachable}
    for arm in EDITS:
        try:
            plan(tracer.Request(denoiser, [arm], batch_size=1))
            with attend(denoiser.model, parse(arm), layout=denoiser.layout, **how):
                pass
        except (SpecError, tracer.PlanError) as error:
            refused.append(str(error))
        else:
            arms.append(arm)
    return arms, tuple(dict.fromkeys(refused))


def traced(denoiser: Any, arms: list[str], size: int, path: Path) -> Any:
    """The run of the pipeline under these arms, `size` samples at once."""
    how = {"samples": len(SEEDS), "batch_size": size, "seed": SEEDS[0], "progress": False}
    return tracer.open_run(tracer.trace(denoiser, arms, record="latents,images", out=path, **how))


def last_states(denoiser: Any, run: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The final state of the clean path [sample, channel, y, x], and that of every arm."""
    final = run["trajectory/latent"].isel(step=-1).values.reshape(len(SEEDS), *denoiser.shape)
    delta = run["trajectory/delta"].isel(step=-1)
    arms = [arm for arm in run["arm"].values.tolist() if arm != "clean"]
    return final, {arm: final + delta.sel(arm=arm).values.reshape(final.shape) for arm in arms}


def goes_alone(denoiser: Any, arm: str) -> str:
    """Why lanes cannot go in one batch; "" where they can, whichever is quicker."""
    with torch.no_grad(), opened(denoiser) as steps:
        steps.evaluate(0, [(parse(spec), None, None) for spec in ("clean", arm, "full")], 0)
    why = denoiser.lanes.why
    return "" if "of the time" in why else why


@contextmanager
def opened(denoiser: Any) -> Iterator[Any]:
    """The pipeline at its start, for one sample or all of them."""
    samples = [Sample(i, seed) for i, seed in enumerate(SEEDS if denoiser.probed.uniform else SEEDS[:1])]

    def draw(step, nth, _):
        return sample_noise(samples, step + nth * denoiser.schedule.steps, denoiser.shape, torch.empty(0))

    with denoiser.passes(samples, mask_seed=0, record=(), draw=draw) as steps:
        yield steps


def plain_call(
    denoiser: Any, entry: Entry, size: int, edit: Edit | None = None, first: int = 0
) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """(final state [sample, channel, y, x], pictures, what the decoder read) of the pipeline's own call.

    `size`: samples at once. `edit`: with its attention written out densely and edited from step `first` on.
    """
    parts = [_plain_part(denoiser, entry, range(at, at + size), edit, first) for at in range(0, len(SEEDS), size)]
    states, shown, read = zip(*parts, strict=True)
    return np.concatenate(states), np.concatenate(shown), torch.cat(read)


def _plain_part(denoiser: Any, entry: Entry, at: range, edit: Edit | None, first: int):
    states: list[torch.Tensor] = []
    read: list[torch.Tensor] = []
    seeds = [SEEDS[i] for i in at]
    lists = {name: value for name, value in entry.make()[1].items() if isinstance(value, list)}
    call = entry.make()[1] | {name: [value[i] for i in at] for name, value in lists.items()}
    with ExitStack() as stack:
        if edit is not None:
            stack.enter_context(edited(denoiser.pipe, entry.known, edit, lambda: len(states) >= first))
        stack.enter_context(latents(denoiser.pipe, states))
        stack.enter_context(decoded(denoiser.pipe, read))
        stack.enter_context(same_noise(denoiser, seeds, states))
        shown = pictures((plain(denoiser.pipe, call, seeds),))
    return denoiser.canonical(states[-1]).numpy(), shown, torch.cat(read)


def relative(x: np.ndarray, y: np.ndarray) -> float:
    """Distance of x from y over the size of y, in the 2-norm."""
    return float(np.linalg.norm(x - y) / np.linalg.norm(y))


def asked_again(denoiser: Any, arm: str) -> float:
    """Largest difference of a step from itself, asked again from the same state and memory: F(x) and G(y)."""
    clean, masked, apart = parse("clean"), parse(arm), 0.0
    with torch.no_grad(), opened(denoiser) as steps:
        (x, y), _ = steps.evaluate(0, [(clean, None, None), (masked, None, None)], 0)
        for i in range(1, denoiser.schedule.steps):
            paths = [(clean, x.landed, x.past), (masked, y.landed, y.past)]
            (x, y, *again), _ = steps.evaluate(i, [*paths, *paths], 0)
            apart = max(apart, *(float((a.landed - b.landed).abs().max()) for a, b in zip((x, y), again, strict=True)))
    return apart


def unlike(read: torch.Tensor, state: np.ndarray, frames: int) -> float:
    """How far the state [sample, frame*channel, y, x] is from what the decoder read, relative.

    Up to a scale and a shift for each channel and each place within 2 x 2 pixels: FLUX.2 scales before it unpacks.
    """
    own = torch.from_numpy(state).unflatten(1, (frames, -1)).double()  # [sample, frame, channel, y, x]
    seen = read.transpose(1, 2) if read.dim() == 5 else read.unflatten(0, (len(own), frames))
    worst = 0.0
    for channel in range(own.shape[2]):
        for y, x in np.ndindex(2, 2):
            one, other = (each[:, :, channel, y::2, x::2].double().flatten() for each in (own, seen))
            one, other = one - one.mean(), other - other.mean()
            rest = other - (one @ other) / (one @ one) * one
            worst = max(worst, float(rest.norm() / other.norm()))
    return worst


def tokens_right(layout: TokenLayout, known: Known) -> float:
    """Share of the tokens of all known calls whose kind and cell the layout gives."""
    same: list[np.ndarray] = []
    for (n_query, n_key, *site), orders in known.all_calls().items():
        found = read(layout, n_query, n_key, *site)
        for told, order in zip(found, orders, strict=True):
            if told is None:
                same.append(np.array([kind == "prefix" for kind, size in order for _ in range(size)]))
                continue
            cells = np.stack([told.kinds(), *told.coordinates()])
            same.append((cells == known.cells(order)).all(axis=0))
    return float(np.mean(np.concatenate(same)))


def read(layout: TokenLayout, n_query: int, n_key: int, site: str | None = None) -> tuple:
    """Layouts of the queries and keys of a call; of a site that has such calls, where the lengths alone do not tell."""
    sites = [key[2] for key in layout.calls if key[:2] == (n_query, n_key) and len(key) == 3]
    if site is None and (n_query, n_key) not in layout.calls and sites:
        site = sites[0]
    return layout.for_call(n_query, n_key, cross=n_query != n_key or None, site=site)


def in_words(layout: TokenLayout, known: Known) -> str:
    """The tokens of the recorded call and of the keys of its cross attention."""
    own = None if known.unreachable else read(layout, known.tokens, known.tokens)[0]
    words = [str(own).removesuffix(" tokens")] if own is not None else []
    if known.cross:
        words.append(f"cross: {read(layout, known.tokens, known.cross)[1]}".removesuffix(" tokens"))
    return "; ".join(words)
