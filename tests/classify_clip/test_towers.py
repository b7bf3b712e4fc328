"""Masked classifiers and towers, through the code of the sweeps, against dense float64 attention."""

import numpy as np
import pytest
import torch

from classify_clip import classification, retrieval
from classify_clip.data import Images, Pairs
from interventions import attend, parse
from tests.builders import small
from tests.oracles import dense

SPECS = ["R1S2", "R2S0", "D0.4A1", "K6N2"]


def images(n=3):
    return Images("test", tuple(map(str, range(n))), np.arange(n), small.CLASSES, small.picture)


def pairs():
    return Pairs(images(), ("one word", "two more words", "three"), np.arange(3), np.arange(3))


def masked(mask):
    """A * M renormalised in every site whose sequence the mask fits."""
    return lambda name, weights, value: dense.attend(dense.renormalised(weights, torch.from_numpy(mask)), value)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("changes", [{}, {"class_token": False, "global_pool": "avg"}, {"reg_tokens": 2}])
def test_classification_under_a_mask_is_attention_times_mask_renormalised(spec, changes):
    classifier = small.classifier(**changes)
    found = classification.outputs(classifier, images(), parse(spec), mask_seed=3, batch_size=2)
    oracle = dense.densify(classifier.model, masked(parse(spec).mask(classifier.layout, 3)))
    expected = oracle(torch.stack([small.to_tensor(small.picture(k)) for k in range(3)]).double())
    assert dense.relative(torch.from_numpy(found.logits), expected) < 1e-5


@pytest.mark.parametrize("spec", SPECS)
def test_the_image_tower_under_a_mask_is_attention_times_mask_renormalised_and_the_text_tower_is_clean(spec):
    retriever = small.retriever()
    found = retrieval.embeddings(retriever, pairs(), parse(spec), mask_seed=3, batch_size=2)
    pixels = torch.stack([small.to_tensor(small.picture(k)) for k in range(3)])
    oracle = dense.densify(retriever.model.visual, masked(parse(spec).mask(retriever.layout, 3)))
    expected = torch.nn.functional.normalize(oracle(pixels.double()), dim=-1)
    assert dense.relative(torch.from_numpy(found.image), expected) < 1e-5
    stock = retriever.model.encode_text(retriever.tokenize(pairs().texts), normalize=True)
    assert dense.relative(torch.from_numpy(found.text), stock) < 1e-5


def test_the_text_tower_under_the_seam_keeps_its_causal_mask():
    retriever = small.retriever()
    tokens = retriever.tokenize(pairs().texts)
    dense_model = dense.densify(retriever.model, lambda name, weights, value: dense.attend(weights, value))
    expected = dense_model.encode_text(tokens, normalize=True)
    found = retrieval.embeddings(retriever, pairs(), parse("full"), tower="text")
    assert dense.relative(torch.from_numpy(found.text), expected) < 1e-5
    later = tokens.clone()
    later[:, 1] = 7  # the first token may not see what comes after it
    with attend(retriever.text_tower, parse("full"), layout=retriever.text_layout):
        first = [_text_states(retriever, t)[:, 0] for t in (tokens, later)]
    torch.testing.assert_close(first[0], first[1], rtol=0, atol=0)


def _text_states(retriever, tokens):
    model = retriever.model
    x = model.token_embedding(tokens) + model.positional_embedding
    return model.transformer(x, attn_mask=model.attn_mask)


@pytest.mark.parametrize("tower", ["timm", "open_clip"])
def test_true_means_allowed_everywhere_a_patch_outside_the_mask_cannot_be_seen(tower):
    spec, seen, hidden = parse("R1S0@layers=0"), 1, 35  # on the 6 x 6 grid token 0 sees 1 and 6, not 35
    if tower == "timm":
        made = small.classifier(class_token=False, global_pool="avg", depth=1)
        module, block, layout, prefix = made.model, made.model.blocks[0], made.layout, 0
    else:
        made = small.retriever()
        module, layout, prefix = made.image_tower, made.layout, 1
        block = module.transformer.resblocks[0]
    states = []
    handle = block.register_forward_hook(lambda *args: states.append(args[-1][0, prefix]))
    base, other = torch.randn(2, 1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    for token in (None, seen, hidden):
        pixels = base.clone()
        if token is not None:
            y, x = divmod(token, 6)
            patch = (..., slice(4 * y, 4 * y + 4), slice(4 * x, 4 * x + 4))
            pixels[patch] = other[patch]
        with attend(module, spec, layout=layout):
            module(pixels)
    handle.remove()
    assert (states[1] - states[0]).abs().max() > 1e-3
    torch.testing.assert_close(states[2], states[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("spec", ["clean", "full", "R1S2"])
def test_open_clips_fast_path_is_never_taken_under_the_seam(monkeypatch, spec):
    def refuse(*args, **kwargs):
        raise AssertionError("the native attention ran, which no mask reaches")

    monkeypatch.setattr(torch.nn.functional, "multi_head_attention_forward", refuse)
    monkeypatch.setattr(torch, "_native_multi_head_attention", refuse)
    found = retrieval.embeddings(small.retriever(), pairs(), parse(spec))
    assert np.isfinite(found.image).all()
    with pytest.raises(AssertionError, match="native attention ran"):
        small.retriever().encode_image(torch.zeros(1, 3, 24, 24))


def test_an_all_true_mask_changes_no_prediction_and_no_rank():
    classifier, many = small.classifier(), images(40)
    clean, full = (classification.outputs(classifier, many, parse(spec)) for spec in ("clean", "full"))
    assert (classification.top(clean.logits, 5) == classification.top(full.logits, 5)).all()
    retriever = small.retriever()
    both = [retrieval.embeddings(retriever, pairs(), parse(spec)) for spec in ("clean", "full")]
    assert np.abs(both[0].image - both[1].image).max() < 1e-6
    local = classification.outputs(classifier, many, parse("R1S0"))
    assert (classification.top(clean.logits, 1) != classification.top(local.logits, 1)).any()  # so the test can fail


def test_batches_do_not_change_an_outcome_nor_a_random_control():
    classifier, many = small.classifier(), images(7)
    whole = classification.outputs(classifier, many, parse("R1S3"), mask_seed=1, batch_size=7)
    split = classification.outputs(classifier, many, parse("R1S3"), mask_seed=1, batch_size=2)
    np.testing.assert_allclose(split.logits, whole.logits, atol=1e-5)
