"""A run with one planted sink and arms that remove it, whose every answer is known by construction."""

import json

import numpy as np
import xarray as xr

from tests.builders import stored

ARMS = ["clean", "sink-k1", "random-k1", "sink-k5", "random-k5@draw=fresh"]
SAMPLES, STEPS, LAYERS, HEADS, GRID, TEXT = 12, 6, 4, 2, 4, 5
TOKENS = GRID**2 + TEXT
SINK, PADDED = 7, 2  # the token that holds 0.5 of all attention in the clean arm; padding tokens per sample


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
