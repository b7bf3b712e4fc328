"""A run with one planted sink and arms that remove it, whose every answer is known by construction."""

import json

import numpy as np
import xarray as xr

from tests.builders import stored

ARMS = ["clean", "sink-k1", "random-k1", "sink-k5", "random-k5@draw=fresh"]
SAMPLES, STEPS, LAYERS, HEADS, GRID, TEXT = 12, 6, 4, 2, 4, 5
TOKENS = GRID**2 + TEXT
SINK, PADDED = 7, 2  # the token that holds 0.5 of all attention in the clean arm; padding tokens per sample


MASS_ARMS = ["clean", "sink-k2", "random-k2", "random-k2-mass", "random-k4", "random-k2-any"]
MASS_OF = [0.0, 0.30, 0.05, 0.28, 0.11, 0.2]  # attention that each of them removes
MASS_COUNT = [
    [-1] * 4,
    [1, 1, 0, 0],
    [2, 0, 0, 0],
    [9, 2, 0, 1],
    [3, 1, 0, 0],
    [2, 0, 0, 0],
]  # image text prefix padding


def by_mass(distance, *, samples=SAMPLES) -> xr.DataTree:
    """A run of `MASS_ARMS` whose removed mass is known, as a run with an arm of equal mass stores it.

    distance: of (mass [arm, sample], whether the arm removes sinks [arm, 1], rng), gives the final distance to clean.
    """
    rng = np.random.default_rng(3)
    mass = np.array(MASS_OF)[:, None] * np.exp(rng.normal(0, 0.01, samples))
    shift = distance(mass, np.array([arm.startswith("sink") for arm in MASS_ARMS])[:, None], rng)
    shift[0] = 0
    coords = {"arm": MASS_ARMS, "sample": np.arange(samples), "step": np.arange(2), "sigma": ("step", [1.0, 0.5])}
    norms = {"delta_rel": (("arm", "sample", "step"), np.repeat(shift[..., None], 2, -1))}
    heads = np.ones((1, 1, 2, 1, 3, 1))  # 2 steps, 1 layer, 3 heads
    count = np.array(MASS_COUNT)[:, None, None, None, None] * heads.repeat(samples, 1)
    shares = np.maximum(count, 0) / np.maximum(count.clip(0).sum(-1, keepdims=True), 1)
    goal = np.full(count.shape, np.nan)
    goal[3] = 0.3 * shares[1]
    head = ("arm", "sample", "step", "layer", "head")
    attention = {
        "removed_token": ((*head, "removed"), np.full((*count.shape[:-1], 4), -1, np.int16)),
        "removed_count": ((*head, "kind"), count.astype(np.int32)),
        "removed_together": ((*head, "kind"), np.where(count < 0, np.nan, shares * mass[:, :, None, None, None, None])),
        "removed_goal": ((*head, "kind"), goal),
    }
    kind = np.repeat([0, 1], [GRID**2, TEXT]).astype(np.int8)
    token = {"token_kind": ("token", kind), "kind": ["image", "text", "prefix", "padding"]}
    about = {"name": "lpips", "title": "LPIPS", "kind": "to clean", "higher_is_better": False}
    plain = {"arm": MASS_ARMS, "sample": np.arange(samples)}
    tree = {
        "metrics": xr.Dataset(norms, coords),
        "attention": xr.Dataset(attention, coords | token),
        "scores/lpips": xr.Dataset({"score": (("arm", "sample"), 2 * shift)}, plain, about),
        "scores/clip-t": xr.Dataset({"score": (("arm", "sample"), 0.3 - shift)}, plain, about | {"kind": "score"}),
    }
    tree = stored.described(xr.DataTree.from_dict(tree), 2)
    tree.attrs |= stored.facts("flow")
    tree.attrs["config"] = json.dumps({"model": "sd3", "sampler": "flow", "steps": 2, "guidance": 3.0})
    return tree


def mass(rng) -> np.ndarray:
    values = rng.dirichlet(np.full(TOKENS, 5.0), (len(ARMS), SAMPLES, STEPS, LAYERS))
    values *= 0.5
    values[..., SINK] += 0.5
    return values


def made(*, padding=True, recorded=True, images=False) -> xr.DataTree:
    rng = np.random.default_rng(0)
    lead = ("arm", "sample", "step", "layer")
    base = rng.uniform(0.2, 0.4, SAMPLES)
    noise = rng.normal(0, 0.1, SAMPLES)
    shift = np.stack([0 * base, base + 0.1, base, 2 * base, 2 * base + noise - noise.mean()])
    coords = {
        "arm": ARMS,
        "sample": np.arange(SAMPLES),
        "step": np.arange(STEPS),
        "sigma": ("step", np.linspace(1, 0.1, STEPS)),
    }
    rel = np.linspace(0.1, 1, STEPS) * shift[:, :, None]
    norms = {name: (("arm", "sample", "step"), rel) for name in ("delta_l2", "delta_rel")}  # clean states of norm 1
    tree = {"metrics": xr.Dataset(norms, coords=coords)}
    if recorded:
        kind = np.repeat([0, 1], [GRID**2, TEXT]).astype(np.int8)
        y, x = (np.append(side.ravel(), [-1] * TEXT) for side in np.indices((GRID, GRID)))
        chosen = np.full((len(ARMS), SAMPLES, STEPS, LAYERS, HEADS, 5), -1, np.int16)
        chosen[1, :, :, 1, :, 0] = SINK  # layer 1 only
        chosen[2, :, :, 1, :, 0] = 3
        chosen[3, :, :, 1] = [SINK, 0, 1, GRID**2, TOKENS - 1]
        chosen[4, :, :, 1] = [2, 3, 4, GRID**2 + 1, TOKENS - 2]
        token = {"token_kind": ("token", kind), "token_y": ("token", y), "token_x": ("token", x)}
        extra = {"token_padding": (("sample", "token"), np.tile(np.arange(TOKENS) >= TOKENS - PADDED, (SAMPLES, 1)))}
        attention = {
            "mass_layer": ((*lead, "token"), mass(rng).astype(np.float32)),
            "removed_token": ((*lead, "head", "removed"), chosen),
        }
        tree["attention"] = xr.Dataset(attention, coords=coords | token | (extra if padding else {}))
    if images:
        picture = np.full((len(ARMS), SAMPLES, 8, 8, 3), 100, np.uint8)
        picture[1:] += np.array([51, 0, 51, 0], np.uint8)[:, None, None, None, None]
        tree["images"] = xr.Dataset(
            {"image": (("arm", "sample", "image_y", "image_x", "rgb"), picture)}, coords={"arm": ARMS}
        )
    tree = stored.described(xr.DataTree.from_dict(tree), STEPS)
    tree.attrs |= stored.facts("flow")
    tree.attrs["config"] = json.dumps({"model": "sd3", "sampler": "flow", "steps": STEPS, "guidance": 3.0})
    return tree
