"""Metrics against other libraries, called by hand."""

import json

import numpy as np
import pytest

from classify_clip import score
from classify_clip.scores.open_clip_models import cosines
from classify_clip.scores.pictures import pictures_of
from tests.builders.pictures import picture_run

RNG = np.random.default_rng(0)


def test_all_forms_of_mmd_equal_torch_fidelitys_of_the_same_kernel():
    from scipy.spatial.distance import cdist
    from torch_fidelity.metric_kid import mmd2

    from analysis.common import set_distances

    x, y = RNG.standard_normal((2, 12, 5))
    xx, yy, xy = (np.exp(-cdist(a, b, "sqeuclidean") / 200) for a, b in ((x, x), (y, y), (x, y)))

    def theirs(form):
        return 1000 * mmd2(xx, xy, yy, unit_diagonal=True, mmd_est=form)

    every = np.arange(12)
    assert set_distances.mmd(x, y)(every) == pytest.approx(theirs("biased"), rel=1e-9)
    assert set_distances.mmd(x, y, unbiased=True)(every) == pytest.approx(theirs("u-statistic"), rel=1e-9)
    assert set_distances.mmd_to(y)(x)(every) == pytest.approx(theirs("biased"), rel=1e-9)
    assert set_distances.mmd_to(y, unbiased=True)(x)(every) == pytest.approx(theirs("unbiased"), rel=1e-9)


def test_frechet_distance_equals_torch_fidelitys():
    import torch
    from torch_fidelity import metric_fid

    from analysis.common import set_distances

    x, y = RNG.standard_normal((60, 8)), RNG.standard_normal((50, 8)) @ np.diag(np.arange(1, 9)) + 1
    theirs = metric_fid.fid_statistics_to_metric(
        *(metric_fid.fid_features_to_statistics(torch.tensor(features)) for features in (x, y)), verbose=False
    )["frechet_inception_distance"]
    assert set_distances.frechet_distance(x, y) == pytest.approx(theirs, rel=1e-6)


def test_prompt_scores_equal_open_clip_called_by_hand(tmp_path):
    """A small model under the form that HPS is published in, {"state_dict": ...}: picture by picture, text by text."""
    import open_clip
    import torch
    from PIL import Image

    from classify_clip.scores.open_clip_models import load_clip
    from classify_clip.scores.weights import Source

    config = {
        "embed_dim": 16, "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }  # fmt: skip
    (tmp_path / "small-for-tests.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "small-for-tests.json")
    torch.manual_seed(0)
    model, _, transform = open_clip.create_model_and_transforms("small-for-tests")
    model.eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "small.pt")
    images, prompts = RNG.integers(0, 256, (3, 40, 48, 3)).astype(np.uint8), ["a cat", "two red dogs", "a tree"]
    clip = load_clip("small-for-tests", Source("hps", "small.pt", "nobody/small"), tmp_path / "small.pt", "cpu")
    found = cosines(clip, pictures_of(picture_run({"clean": images}, prompts=prompts)))(images)
    tokenize = open_clip.get_tokenizer("small-for-tests")
    for n in range(3):
        with torch.no_grad():
            seen = model.encode_image(transform(Image.fromarray(images[n]))[None])[0].double()
            read = model.encode_text(tokenize([prompts[n]]))[0].double()
        assert found[n] == pytest.approx(float(seen @ read / (seen.norm() * read.norm())), abs=1e-6)


def test_torch_fidelitys_inception_is_given_the_pictures_as_they_are(tmp_path, monkeypatch):
    """As uint8 [n, 3, y, x], in order, whatever their number: the resizing and the features are its own."""
    import types

    import torch

    from classify_clip.scores import fid

    class Extractor(torch.nn.Module):
        def __init__(self, name, features, feature_extractor_weights_path):
            super().__init__()
            assert (name, features) == ("inception", ["2048"])

        def forward(self, pixels):
            assert pixels.dtype == torch.uint8
            return (pixels.double().mean((2, 3)),)

    monkeypatch.setattr(
        fid, "needs_package", lambda *args: types.SimpleNamespace(FeatureExtractorInceptionV3=Extractor)
    )
    torch.save({}, tmp_path / fid.FILE)
    images = RNG.integers(0, 256, (20, 8, 8, 3)).astype(np.uint8)
    features = score(picture_run({"clean": images}), "fid", {"fid": tmp_path})["scores/fid/features"]
    np.testing.assert_allclose(features.sel(arm="clean"), images.mean((1, 2)), rtol=1e-6)
