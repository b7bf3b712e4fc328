"""Runs with a replay, made in memory: exact systems sampled in numpy, and runs whose ratios are given by hand.

Everything is laid out as the store's schema says and imports nothing of the tracer, so that it also checks the
definitions: w is stepped by the clean system under the clean path's injections, N* sums the masked path's own shifts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import numpy as np
import xarray as xr

from tests.builders import stored
from tests.ground_truth import gaussian

STATE = ("channel", "y", "x")
SHAPE = (1, 8, 8)
Data = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape)


def bimodal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Independent pixels at +-1 with sd .1."""
    return rng.choice([-1.0, 1.0], shape) + 0.1 * rng.standard_normal(shape)


def replayed_run(
    clean: gaussian.Denoise,
    masks: Mapping[str, gaussian.Denoise],
    *,
    data: Data = normal,
    sampler: str = "ddpm",
    steps: int = 50,
    starts: int = 12,
    paths: int = 1,
    shape: tuple[int, ...] = SHAPE,
    seed: int = 0,
    fork: int = 0,
    own: bool = True,
    images: bool = False,
    **config,
) -> xr.DataTree:
    """A run of the exact denoiser `clean` and of masked ones, by arm; windows `@steps=k:k+1` act at that step alone.

    Samples are starts x paths, ordered by start; a start's paths share x_T, and the noise before step `fork`. `own`
    False keeps the replay alone, as a run without `--record verdict`.
    """
    rng = np.random.default_rng(seed)
    schedule = gaussian.SCHEDULES[sampler](steps)
    first = schedule.alpha[0] * data(rng, (starts, *shape)) + schedule.sigma[0] * rng.standard_normal((starts, *shape))
    x = np.repeat(first, paths, axis=0)
    noise = rng.standard_normal((steps, starts, paths, *shape))
    noise[:fork] = noise[:fork, :, :1]
    noise = noise.reshape(steps, starts * paths, *shape)
    described = stored.arms(["clean", *masks], steps)
    windows = dict(
        zip(masks, zip(described["arm_start"][1][1:], described["arm_stop"][1][1:], strict=True), strict=True)
    )
    results = {arm: _paths(schedule, clean, masked, x, noise, range(*windows[arm])) for arm, masked in masks.items()}
    return _tree(results, schedule, x, paths, sampler, own, images, config)


def _paths(schedule, clean, masked, start, noise, window) -> dict[str, np.ndarray]:
    """Clean, masked and replayed path and all sums: per-step arrays [step, sample, ...], finals [sample, ...]."""
    x, y, w, tau = start, start, start, np.zeros_like(start)
    null, own, replay_own = (np.zeros_like(start) for _ in range(3))
    kept: dict[str, list] = {
        name: [] for name in ("clean", "delta", "replay", "injected", "own_injected", "tau", "d", "d_own")
    }
    for i in range(schedule.steps):
        level = schedule.alpha[i], schedule.sigma[i]
        other = masked if i in window else clean

        def step(state, denoise, i=i, level=level):
            return gaussian.advance(schedule, i, state, denoise(state, *level), noise[i])

        def predicted(state, i=i):
            return state if i + 1 == schedule.steps else clean(state, schedule.alpha[i + 1], schedule.sigma[i + 1])

        clean_x, clean_y, clean_w = (step(state, clean) for state in (x, y, w))
        injected, masked_y = step(x, other) - clean_x, step(y, other)
        tau = (step(x + 1e-6 * tau, clean) - step(x - 1e-6 * tau, clean)) / 2e-6 + injected
        d = predicted(clean_x + injected) - predicted(clean_x)
        d_own = predicted(masked_y) - predicted(clean_y)
        replay_own = replay_own + predicted(clean_w + injected) - predicted(clean_w)
        null, own = null + d, own + d_own
        x, w = clean_x, clean_w + injected
        values = (x, masked_y - x, w - x, injected, masked_y - clean_y, tau, d, d_own)
        y = masked_y
        for name, value in zip(kept, values, strict=True):
            kept[name].append(value)
    finals = {"null": null, "own": own, "replay_own": replay_own}
    return {name: np.stack(values) for name, values in kept.items()} | finals


def _tree(results, schedule, start, paths, sampler, own, images, config) -> xr.DataTree:
    arms, (first, *_) = ["clean", *results], results.values()
    samples, steps = len(start), schedule.steps
    number = np.arange(samples)
    coords = {"arm": arms, **stored.arms(arms, steps), "sample": number, "seed": ("sample", number // paths)}
    coords |= {"start": ("sample", number // paths), "path": ("sample", number % paths)}
    levels = {name: getattr(schedule, name) for name in ("alpha", "sigma", "alpha_after", "sigma_after")}
    per_step = coords | {"step": np.arange(steps)} | {name: ("step", values) for name, values in levels.items()}
    per_step |= stored.step_factors(schedule)

    def norms(name):  # [arm, sample, step]
        return _with_clean([np.linalg.norm(r[name].reshape(steps, samples, -1), axis=-1).T for r in results.values()])

    def finals(pick):  # [arm, sample, channel, y, x]
        return _with_clean([pick(result) for result in results.values()])

    clean_norm = np.linalg.norm(first["clean"].reshape(steps, samples, -1), axis=-1).T
    metrics = {"delta_l2": norms("delta"), "delta_rel": norms("delta") / clean_norm, "replay_l2": norms("replay")}
    metrics["injected_l2"] = norms("injected")
    ends = {"final_delta": finals(lambda r: r["delta"][-1]), "final_replay": finals(lambda r: r["replay"][-1])}
    sums = {}
    if own and sampler == "ddpm":
        metrics |= {"null_l2": norms("d"), "own_l2": norms("d_own"), "own_injected_l2": norms("own_injected")}
        sums = {f"{name}_sum": finals(lambda r, name=name: r[name]) for name in ("null", "own", "replay_own")}
    elif own:
        metrics["transport_l2"] = norms("tau")
        sums = {"transport_final": finals(lambda r: r["tau"][-1])}
    tree = {
        "/": xr.Dataset({"status": (("arm", "sample"), np.ones((len(arms), samples), np.int8))}, coords=coords),
        "metrics": xr.Dataset({name: (("arm", "sample", "step"), v) for name, v in metrics.items()}, coords=per_step),
        "trajectory": xr.Dataset(
            {name: (("arm", "sample", *STATE), v) for name, v in ends.items()}
            | {"latent": (("sample", "step", *STATE), np.moveaxis(first["clean"], 0, 1))},
            coords=per_step,
        ),
    }
    if sums:
        tree["decomposition"] = xr.Dataset({n: (("arm", "sample", *STATE), v) for n, v in sums.items()}, coords=coords)
    if images:
        last, changes = first["clean"][-1], {"image": ends["final_delta"], "replay": ends["final_replay"]}
        pictures = {name: np.stack([_picture(last + each) for each in change]) for name, change in changes.items()}
        dims = ("arm", "sample", "image_y", "image_x", "rgb")
        tree["images"] = xr.Dataset({name: (dims, values) for name, values in pictures.items()}, coords=coords)
    tree = xr.DataTree.from_dict(tree)
    settings = {"model": "exact", "sampler": sampler, "steps": steps, "guidance": 1.0, "arms": arms} | config
    tree.attrs = {"schema": "denoise-trace", "config": json.dumps(settings), **stored.facts(sampler)}
    return tree


def _with_clean(values: list[np.ndarray]) -> np.ndarray:
    return np.stack([np.zeros_like(values[0]), *values])


def _picture(state: np.ndarray) -> np.ndarray:
    """A grey picture [sample, y, x, rgb] of the first channel."""
    return np.repeat(np.clip(127 + 80 * state[:, 0], 0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def answered(
    arms: Mapping[str, Mapping[str, np.ndarray | float]],
    *,
    steps: int = 50,
    samples: int = 16,
    floor: float | None = None,
    sampler: str = "ddpm",
    seeds=None,
    mask: Mapping[str, float] | None = None,
    **config,
) -> xr.DataTree:
    """A run whose ratios are given, per arm: `S` = |y - x| / |w - x|, `systematic` = |N*| / |N| (ODE: |y - x| / |tau|),
    `error` = |y - x|, each a number or [sample]; without `systematic` only the replay is recorded.

    Every final state is a multiple of one direction; N is 1 long; clean final states have a spread of 4 in norm.
    """
    names = ["clean", *(["full"] if floor is not None else []), *arms]
    values = {"clean": {"error": 0.0}, "full": {"error": floor or 0.0}} | dict(arms)
    direction = np.full((1, 4, 4), 0.25)

    def each(key, default=1.0):
        return np.stack([np.broadcast_to(np.asarray(values[n].get(key, default), float), samples) for n in names])

    def field(size):
        return size[:, :, None, None, None] * direction

    error, feedback, systematic = each("error"), each("S"), each("systematic")
    replay = np.where(error > 0, error / feedback, 0)
    coords = {"arm": names, **stored.arms(names, steps), "sample": np.arange(samples)}
    coords["seed"] = ("sample", np.arange(samples) if seeds is None else np.asarray(seeds))
    level = np.linspace(0.1, 0.99, steps + 1)
    alpha, sigma = level, np.sqrt(1 - level**2)
    schedule = gaussian.Schedule(sampler, np.arange(steps), alpha[:-1], sigma[:-1], alpha[1:], sigma[1:])
    per_step = coords | {"step": np.arange(steps)} | stored.step_factors(schedule)
    named = ("alpha", "sigma", "alpha_after", "sigma_after")
    per_step |= {name: ("step", getattr(schedule, name)) for name in named}
    latent = np.random.default_rng(0).normal(size=(samples, 1, 4, 4))
    latent /= np.sqrt(latent.var(axis=0, ddof=1).sum() / 16)
    ramp = np.ones(steps)
    metrics = {"delta_l2": error[..., None] * ramp, "replay_l2": replay[..., None] * ramp}
    metrics["delta_rel"] = metrics["delta_l2"] / np.linalg.norm(latent.reshape(samples, -1), axis=1)[:, None]
    tree = {
        "/": xr.Dataset({"status": (("arm", "sample"), np.ones((len(names), samples), np.int8))}, coords=coords),
        "metrics": xr.Dataset({name: (("arm", "sample", "step"), v) for name, v in metrics.items()}, coords=per_step),
        "trajectory": xr.Dataset(
            {"final_delta": (("arm", "sample", *STATE), field(error)),
             "final_replay": (("arm", "sample", *STATE), field(replay)),
             "latent": (("sample", "step", *STATE), np.repeat(latent[:, None], steps, axis=1))},
            coords=per_step,
        ),
    }  # fmt: skip
    if any("systematic" in value for value in arms.values()):
        sums = {"transport_final": field(error / systematic)}
        if sampler == "ddpm":
            sums = {
                "null_sum": field(np.ones_like(error)),
                "own_sum": field(systematic),
                "replay_own_sum": field(replay),
            }
        tree["decomposition"] = xr.Dataset({n: (("arm", "sample", *STATE), v) for n, v in sums.items()}, coords=coords)
    if mask:
        tree["interventions"] = masks_of(names, mask)
    tree = xr.DataTree.from_dict(tree)
    settings = {"model": "by-hand", "sampler": sampler, "steps": steps, "guidance": 1.0, "arms": names} | config
    tree.attrs = {"schema": "denoise-trace", "config": json.dumps(settings), **stored.facts(sampler)}
    return tree


def masks_of(arms: list[str], densities: Mapping[str, float]) -> xr.Dataset:
    """Static masks of these densities over 20 image tokens and one open prefix token."""
    masks = np.ones((len(arms), 21, 21), bool)
    for arm, density in densities.items():
        masks[arms.index(arm), 1:, 1:] = np.arange(20) < round(20 * density)
    return xr.Dataset({"mask": (("arm", "query", "key"), masks)}, coords={"arm": arms})
