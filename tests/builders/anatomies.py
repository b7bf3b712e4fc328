"""Runs whose attention comes from queries and keys with one known cause of mass: position, prompt, start, key norm."""

import json

import numpy as np
import xarray as xr

from tests.builders import stored

GRID, TEXT, WIDTH, HEADS, STEPS, LAYERS, PROMPTS = 4, 8, 16, 2, 3, 2, 8
TOKENS = GRID**2 + TEXT
WORDS = [2, 3, 4, 2, 3, 4, 5, 3]  # of every prompt's text tokens, the rest is padding
CAUSES = ("position", "prompt", "start", "norm")


def made(cause: str, *, starts: int = 2, seed: int = 0) -> xr.DataTree:
    """A run of PROMPTS prompts, each from so many starts, in which `cause` alone decides which keys get the mass.

    Queries scatter around a mean direction. Keys are of one length and lie at an angle to it that the position, the
    position in a prompt, or the single sample decides; for "norm" they lie at one angle and the single sample decides
    how long they are. What is recorded is computed from dense float64 attention.
    """
    rng = np.random.default_rng(seed)
    samples = PROMPTS * starts
    prompt = np.arange(samples) % PROMPTS
    drawn = {"position": rng.normal(size=TOKENS)[None], "prompt": rng.normal(size=(PROMPTS, TOKENS))[prompt]}
    size = drawn.get(cause, rng.normal(size=(samples, TOKENS)))
    size = np.broadcast_to(size, (samples, TOKENS)) + 0.02 * rng.normal(size=(samples, TOKENS))
    direction = np.eye(WIDTH)[0]
    shape = (samples, STEPS, LAYERS, HEADS, TOKENS, WIDTH)
    query = direction + 0.2 * rng.normal(size=shape)
    across = rng.normal(size=shape)
    across[..., 0] = 0
    across /= np.linalg.norm(across, axis=-1, keepdims=True)
    cosine, length = (0.5, np.exp(0.5 * size)) if cause == "norm" else (0.6 * np.tanh(size), np.ones(size.shape))
    cosine, length = (np.broadcast_to(own, size.shape)[:, None, None, None, :, None] for own in (cosine, length))
    key = 3 * length * (cosine * direction + np.sqrt(1 - cosine**2) * across)
    return _run(query, key, rng.normal(size=shape), prompt)


def _run(query: np.ndarray, key: np.ndarray, value: np.ndarray, prompt: np.ndarray) -> xr.DataTree:
    scores = query @ key.swapaxes(-1, -2) / np.sqrt(WIDTH)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mass = (weights / weights.sum(-1, keepdims=True)).mean(-2).mean(3)
    mean = query.mean(-2, keepdims=True)
    norms = {"key_norm": key, "value_norm": value}
    recorded = {"mass_layer": mass} | {name: np.linalg.norm(own, axis=-1).mean(3) for name, own in norms.items()}
    recorded["key_query"] = scores.mean(-2).mean(3)
    recorded["key_cosine"] = ((key * mean).sum(-1) / np.linalg.norm(key, axis=-1) / np.linalg.norm(mean, axis=-1)).mean(
        3
    )
    names = ["clean", "sink-k1"]
    coords = {
        "arm": names,
        "sample": np.arange(len(prompt)),
        "step": np.arange(STEPS),
        "prompt": ("sample", [f"prompt {number}" for number in prompt]),
    }
    flat = np.zeros((2, len(prompt), STEPS))
    kinds = np.repeat([0, 1], [GRID**2, TEXT]).astype(np.int8)
    padding = np.arange(TOKENS) >= GRID**2 + np.array(WORDS)[prompt][:, None]
    token = {"token_kind": ("token", kinds), "token_padding": (("sample", "token"), padding)}
    dims = ("arm", "sample", "step", "layer", "token")
    both = {name: (dims, np.stack([own, own[::-1]]).astype(np.float32)) for name, own in recorded.items()}
    tree = {
        "metrics": xr.Dataset({"delta_l2": (dims[:3], flat), "delta_rel": (dims[:3], flat)}, coords=coords),
        "attention": xr.Dataset(both, coords=coords | token),
    }
    run = stored.described(xr.DataTree.from_dict(tree), STEPS)
    run.attrs |= stored.facts("flow")
    run.attrs["config"] = json.dumps({"model": "sd3", "sampler": "flow", "steps": STEPS, "guidance": 3.0})
    return run
