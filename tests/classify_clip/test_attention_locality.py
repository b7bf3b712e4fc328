"""How much clean attention a mask keeps, against uniform attention's closed form and the dense weights themselves."""

import numpy as np
import pytest
import torch

from classify_clip.attention_locality import locality
from interventions import parse
from tests.classify_clip.test_blocks import batches, stack
from tests.oracles import dense


def test_uniform_attention_keeps_a_masks_density_and_reaches_the_mean_distance():
    made = stack("timm")
    with torch.no_grad():
        for block in made.blocks:
            block.attn.qkv.weight[: 2 * 16] = 0  # queries and keys are constant: attention is uniform
            block.attn.qkv.bias[: 2 * 16] = 0
    found = locality(made, batches(), {"R1S0": [0], "R1S5": [0, 1]})
    for spec, seeds in (("R1S0", [0]), ("R1S5", [0, 1])):
        share = np.mean([parse(spec).mask(made.layout, seed)[1:].mean() for seed in seeds])
        np.testing.assert_allclose(found["kept"].sel(spec=spec), share, rtol=1e-6)
    along = np.abs(np.subtract.outer(np.arange(6), np.arange(6))).mean()  # mean distance on one axis of 6
    np.testing.assert_allclose(found["reach"], 2 * along, rtol=1e-6)
    np.testing.assert_allclose(found["entropy"], np.log(37), rtol=1e-6)


@pytest.mark.parametrize("name", ["timm", "open_clip", "dit"])
def test_kept_attention_is_that_of_the_dense_weights(name):
    made = stack(name)
    kept, spec = [], "R2S0"
    allowed = torch.from_numpy(parse(spec).mask(made.layout)).double()

    def look(_, weights, value):
        kept.append(float((weights * allowed).sum(-1)[..., made.layout.image].mean()))
        return dense.attend(weights, value)

    oracle = dense.densify(made.module, look)
    rows, pixels = batches(n=3)[0]
    found = locality(made, [(rows, pixels)], {spec: [0]})
    if name == "dit":
        state = torch.nn.functional.avg_pool2d(pixels, 4)[:, [0, 1, 2, 0]].double()
        oracle(state, timestep=torch.full((3,), 300), class_labels=torch.from_numpy(rows))
    else:
        oracle(pixels.double())
    np.testing.assert_allclose(found["kept"].values[0], kept, rtol=1e-5)
