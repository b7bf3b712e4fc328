"""Maps of words: which tokens are a word, and that what a run stores is the attention of its own forwards."""

import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from torch.overrides import TorchFunctionMode

import tracer
from interventions import parse
from interventions.seam import attend as seam
from tests.builders.analytic import Analytic
from tests.builders.tiny_pipelines import clip_tokenizer, save_sd3, save_sdxl, t5
from tests.oracles import dense
from tests.zoo import ZOO
from tests.zoo.text import CLIP, T5
from tracer import store
from tracer.command import command_of
from tracer.denoisers import load
from tracer.denoisers.base import Sample
from tracer.denoisers.pipeline.hooks import denoisers
from tracer.denoisers.word_tokens import by_position, words_of
from tracer.frames import frame_steps
from tracer.plan import plan
from tracer.price import price
from tracer.request import PlanError, Request
from tracer.run import complete, prepare

torch.set_num_threads(1)
ARMS = ["sink-k2@keys=text", "R2S4@steps=2:3"]
HOW = {"steps": 3, "samples": 2, "floor": False, "progress": False, "frames": 2}


# --- which tokens are a word ---


def test_pieces_of_a_word_belong_to_it_in_every_tokenizer_and_the_rest_has_a_name():
    """CLIP here reads letters between a start and an end; T5 letters and spaces, which go to the word behind."""
    clip, third = clip_tokenizer(), t5()[1]
    assert words_of("a cat", [(clip, 12)]) == [
        ("a", (1,)), ("cat", (2, 3, 4)), ("[start]", (0,)), ("[end]", (5,)), ("[padding]", (6, 7, 8, 9, 10, 11)),
    ]  # fmt: skip
    assert words_of("a cat", [(third, 9)]) == [
        ("a", (0, 1)), ("cat", (2, 3, 4, 5)), ("[end]", (6,)), ("[padding]", (7, 8))
    ]  # fmt: skip
    both = dict(words_of("a cat", [(clip, 12), (third, 9)]))
    assert (both["cat"], both["[end]"]) == ((2, 3, 4, 14, 15, 16, 17), (5, 18))


@pytest.mark.parametrize("prompt", ["", "a", "a  Red-hot cat, x?", "a cat a cat", "much longer than the twelve of it"])
def test_every_text_token_is_in_one_entry(prompt):
    words = words_of(prompt, [(clip_tokenizer(), 12), (t5()[1], 16)])
    assert sorted(token for _, tokens in words for token in tokens) == list(range(28))
    told = [word for word, _ in words if not word.startswith("[")]
    whole = ["a", "Red-hot", "cat", ",", "x", "?"] if "hot" in prompt else prompt.split()
    assert told == whole[: len(told)]  # the last words of a long prompt are cut off by both
    assert (told == whole) == (len(prompt) < 16)


def test_without_words_tokens_are_numbered_and_padding_is_one_entry():
    padding = np.array([False, True, False, True])
    assert by_position(padding) == [("token 1", (0,)), ("token 3", (2,)), ("[padding]", (1, 3))]


# --- the embedded SD3 ---


@pytest.fixture(scope="module")
def sd3():
    return load("sd3", device="cpu")


@pytest.fixture(scope="module")
def run(sd3, tmp_path_factory):
    return traced(sd3, tmp_path_factory.mktemp("words") / "run")


def traced(denoiser, path, **how):
    how = {**HOW, "record": "norms,latents,words", "prompts": ["a red heart", "cat"], "guidance": 3.0, **how}
    return tracer.trace(denoiser, how.pop("arms", ARMS), out=path, **how)


def maps(path):
    return tracer.open_run(path)["attention/word_map"].load()


def dense_words(sd3, prompt, x, timestep, spec=None):
    """[text, image] of the embedded SD3's forward, by its watched queries and keys and float64; mean over all."""
    calls = []
    tokens, pooled = sd3.conditions.batch([prompt], "cpu", torch.float32)
    watch = lambda site, call: calls.append(call)  # noqa: E731
    with torch.no_grad(), seam.attend(sd3.model, parse("clean"), layout=sd3.layout, watch=watch):
        sd3.forward(x[None].float(), timestep, tokens, pooled)
    assert len(calls) == sd3.layers
    weights = torch.stack([dense.weights(call.query, call.key, call.attn_mask).mean(1)[0] for call in calls]).mean(0)
    image = sd3.layout.image
    torch.testing.assert_close(weights[image].sum(-1), torch.ones(256, dtype=torch.float64))
    return weights[image][:, [*range(256, sd3.layout.size)]].T


def test_the_maps_of_the_clean_arm_are_slices_of_the_dense_matrix_of_the_conditional_half(sd3, run):
    """The state that a step starts from is stored; the same forward is written out in float64."""
    tree, found = tracer.open_run(run), maps(run)
    assert found.dims == ("arm", "sample", "frame_step", "word", "map_y", "map_x")
    assert found.frame_step.values.tolist() == frame_steps(3, 2) == [1, 2]
    assert found.word_text.values.tolist() == [
        ["a", "red", "heart", "[end]", "[padding]"],
        ["cat", "[end]", "[padding]", "", ""],
    ]
    latents, timesteps = tree["trajectory/latent"].values, tree["trajectory"].timestep.values
    for sample, prompt, words in ((0, "a red heart", 3), (1, "cat", 1)):
        for frame, step in enumerate((1, 2)):
            paid = dense_words(sd3, prompt, torch.from_numpy(latents[sample, step - 1]), timesteps[step])
            expected = torch.cat([paid[: words + 1], paid[words + 1 :].sum(0, keepdim=True)]).unflatten(1, (16, 16))
            own = found.values[0, sample, frame]
            np.testing.assert_allclose(own[: words + 2], expected, rtol=2**-11 + 1e-5, atol=1e-6)  # ten bits are kept
            assert np.isnan(own[words + 2 :]).all()


def test_an_arm_has_its_own_maps_and_before_it_departs_the_clean_ones(run):
    found = maps(run)
    assert (found.sel(arm=ARMS[0]) != found.sel(arm="clean")).any()
    removed = found.sel(arm=ARMS[0]).fillna(0).sum("word").mean()
    assert removed < 0.9 * found.sel(arm="clean").fillna(0).sum("word").mean()  # two text keys a head are gone
    clean, late = found.sel(arm="clean").values, found.sel(arm=ARMS[1]).values
    np.testing.assert_array_equal(late[:, 0], clean[:, 0])
    assert np.nanmax(np.abs(late[:, 1] - clean[:, 1])) > 1e-3


def test_the_batch_and_what_else_is_recorded_change_no_map_and_no_state(sd3, run, tmp_path):
    one = traced(sd3, tmp_path / "one", batch_size=1)
    np.testing.assert_allclose(maps(one), maps(run), rtol=2**-9, atol=1e-5)
    plain = traced(sd3, tmp_path / "plain", record="norms,latents,frames,mass,sinks")
    for name in ("trajectory/latent", "trajectory/delta"):
        np.testing.assert_array_equal(tracer.open_run(plain)[name], tracer.open_run(run)[name])


def test_a_stopped_run_goes_on_to_the_same_maps(sd3, tmp_path):
    how = {**HOW, "record": "norms,words", "prompts": ["a red heart", "cat"], "guidance": 1.0, "batch_size": 1}
    whole = maps(tracer.trace(sd3, "R2S4", out=tmp_path / "whole", **how))

    def stop(done, total):
        if done > 4:
            raise KeyboardInterrupt

    asked = plan(Request(sd3, "R2S4", out=tmp_path / "run", **how))
    with pytest.raises(KeyboardInterrupt):
        complete(asked, prepare(asked), progress=stop)
    with pytest.raises(store.RunError, match="no --word-layers"):
        tracer.trace(sd3, "R2S4", out=tmp_path / "run", resume=True, word_layers="1", **how)
    tracer.trace(sd3, "R2S4", out=tmp_path / "run", resume=True, **how)
    xr.testing.assert_identical(maps(tmp_path / "run"), whole)


def test_some_layers_alone_are_the_mean_over_them(sd3, tmp_path):
    """Of six layers the mean of the first three and of the last three is that of all."""
    how = {"arms": "R2S4", "samples": 1, "steps": 1, "guidance": 1.0}
    whole = maps(traced(sd3, tmp_path / "all", **how))
    halves = [maps(traced(sd3, tmp_path / named, word_layers=named, **how)) for named in ("0-2", "3-5")]
    np.testing.assert_allclose((halves[0] + halves[1]) / 2, whole, rtol=2**-9, atol=1e-6)
    tree = tracer.open_run(tmp_path / "0-2")
    config = json.loads(tree.attrs["config"])
    assert config["word_layers"] == "0-2"
    assert {"--word-layers 0-2", "--frames 2"} <= {f"--{each.strip()}" for each in command_of(tree, config).split("--")}


def test_what_cannot_be_recorded_is_refused_and_the_price_is_told(sd3):
    with pytest.raises(PlanError, match="sees no text"):
        plan(Request("dit", record="words"))
    with pytest.raises(PlanError, match="no attention"):
        plan(Request(Analytic(*[lambda x, t: x] * 2), record="words"))
    with pytest.raises(PlanError, match="--word-layers 2: words are not recorded; add them with --record norms,words"):
        plan(Request(sd3, record="norms", word_layers="2"))
    with pytest.raises(Exception, match="layers"):
        plan(Request(sd3, record="words", word_layers="6"))
    asked = plan(Request(sd3, "R1S0", record="norms,words", steps=4, samples=2, prompts=["cat"] * 2, floor=False))
    part = next(part for part in price(asked).parts if part.records == ("words",))
    assert part.evaluations == 0
    assert part.bytes > 2 * 2 * 4 * 3 * 16 * 16 * 4 * 14 / 32


# --- other architectures, against the stock call of the pipeline ---


class Kept(TorchFunctionMode):
    """Keeps the query, key and mask of every call of the fused kernel."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            named = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)) | dict(kwargs or {})
            self.calls.append((named["query"], named["key"], named.get("attn_mask"), named.get("scale")))
        return func(*args, **(kwargs or {}))


@contextmanager
def first_forward(network):
    """The fused calls of the network's first forward inside it."""
    kept, stock = Kept(), network.forward

    def forward(*args, **kwargs):
        if kept.calls:
            return stock(*args, **kwargs)
        with kept:
            return stock(*args, **kwargs)

    network.forward = forward
    try:
        yield kept.calls
    finally:
        del network.forward


KNOWN = {
    "sd3": (CLIP + T5, "image first"),
    "flux1": (T5, "text first"),
    "sdxl": (CLIP, "cross"),
    "pixart-alpha": (T5, "cross"),
}
"""Text tokens, and where they stand, as the architectures' sources say."""


@pytest.mark.parametrize("name", KNOWN)
def test_a_pipeline_s_maps_are_slices_of_the_dense_matrices_of_its_stock_call(name, tmp_path):
    """The first step of a plain `pipe(...)` from the same noise; its attention written out in float64."""
    pipe, call = ZOO[name].make()
    pipe.set_progress_bar_config(disable=True)
    denoiser, known = tracer.from_pipeline(pipe, **call), ZOO[name].known
    path = tracer.trace(
        denoiser, "sink-k1@keys=text;steps=2:4", samples=2, record="norms,words", frames=4, floor=False,
        out=tmp_path / "run", progress=False, batch_size=2,
    )  # fmt: skip
    found = maps(path)
    words = dict(zip(found.word_text.values[0].tolist(), found.values[0, 0, 0], strict=True))
    assert [word for word in words if word and word[0] != "["] == ["a", "red", "cat"]

    text, order = KNOWN[name]
    network = denoisers(pipe)[0]
    with torch.no_grad(), first_forward(network) as calls:
        pipe(**{**call, "generator": None, "latents": _start(denoiser, 2), "output_type": "latent"})
    _, part, parts = known.conditional
    grid, total = known.grid[1:], []
    for query, key, mask, scale in calls:
        if order == "cross" and key.shape[2] != text:
            continue
        weights = dense.weights(query, key, mask, scale).mean(1)
        weights = weights[len(weights) // parts * part :][0]  # of the first sample of the conditional half
        image = weights.shape[0] - (0 if order == "cross" else text)
        rows = weights[-image:] if order == "text first" else weights[:image]
        paid = rows[:, :text] if order != "image first" else rows[:, image:]
        side = (grid[0] * grid[1] // image) ** 0.5
        paid = paid.unflatten(0, [int(size / side) for size in grid])
        total.append(paid.repeat_interleave(int(side), 0).repeat_interleave(int(side), 1))
    expected = torch.stack(total).mean(0).movedim(-1, 0)
    spelled = dict(denoiser.words([Sample(0, 0)])[0])
    for word, tokens in spelled.items():
        np.testing.assert_allclose(words[word], expected[list(tokens)].sum(0), rtol=2**-11 + 1e-4, atol=1e-6)
    if order == "cross":
        np.testing.assert_allclose(np.nansum(found.values[0, 0, 0], 0), 1, rtol=1e-3)


def _start(denoiser, samples):
    """The noise that the run begins with, in the pipeline's own form, before its scheduler scales it."""
    shown = [Sample(k, k) for k in range(samples)]
    with denoiser.passes(
        shown, mask_seed=0, record=(), draw=lambda *_: torch.zeros(samples, *denoiser.shape)
    ) as opened:
        (first,), _ = opened.evaluate(0, [(parse("clean"), None, None)], 0)
        return opened._own(first.sample) / float(getattr(denoiser.pipe.scheduler, "init_noise_sigma", 1))


@pytest.mark.parametrize("save", [save_sd3, save_sdxl])
def test_families_name_the_words_of_their_own_tokenizers(save, tmp_path):
    save(tmp_path)
    family = "sd3" if save is save_sd3 else "sdxl"
    denoiser = load(family, checkpoint=str(tmp_path), device="cpu")
    path = tracer.trace(
        denoiser, "sink-k1@keys=text", samples=2, steps=2, record="norms,words", prompts=["a cat", "dog"],
        floor=False, out=tmp_path / "run", progress=False,
    )  # fmt: skip
    found = maps(path)
    assert found.word_text.values[1].tolist()[:3] == ["dog", "[start]", "[end]"]
    total = found.fillna(0).sum("word")
    assert ((total > 0) & (total < 1 + 1e-3)).all()
    assert sum(len(tokens) for _, tokens in denoiser.words([Sample(0, 0, prompt="a cat")])[0]) == denoiser.layout.text
