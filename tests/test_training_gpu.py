"""The training loop of `training.gpu` on a CPU: torch's own optimizers, the chances of captions, and what it saves."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim._muon import _zeropower_via_newtonschulz

from tracer.denoisers.dit import load_dit
from tracer.denoisers.embedded.words import tokenize
from training import dit, gpu
from training.common import Emoji

CPU = torch.device("cpu")


def pictures(classes=("face", "hand", "clock", "flag")):
    """Forty random pictures, ten of each class, one in five held out."""
    label = torch.arange(40) % len(classes)
    names = np.array([f"{classes[k]} {n}" for n, k in enumerate(label.tolist())])
    split = np.where(np.arange(40) % 5, "train", "held-out-images")
    pixels = torch.randint(256, (40, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()
    return Emoji(pixels, label, names, names, np.full(40, "flat"), split, classes)


@pytest.mark.parametrize("shape", [(64, 32), (32, 64), (48, 48)])
def test_a_stack_of_matrices_is_made_orthogonal_as_torch_does_it_one_by_one(shape):
    stack = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    each = [_zeropower_via_newtonschulz(one, (3.4445, -4.7750, 2.0315), 5, 1e-7) for one in stack]
    assert torch.equal(gpu.orthogonal(stack), torch.stack(each).float())


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.transformer_blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.out = nn.Linear(8, 2)

    def forward(self, x):
        for block in self.transformer_blocks:
            x = x + torch.tanh(block(x))
        return self.out(x)


def test_a_step_is_that_of_torchs_muon_and_adamw_after_clipping():
    torch.manual_seed(0)
    model, x, y = Toy(), torch.randn(4, 16, 8), torch.randn(4, 16, 2)
    other = copy.deepcopy(model)
    rounds = iter(range(4))

    def loss(_):
        k = next(rounds)
        return 30 * (model(x[k]) - y[k]).square().mean()

    trainer = gpu.Trainer(model, loss, 16)
    trainer.rate.fill_(2e-3)
    trainer.keep.fill_(0.75)
    matrices = [p for name, p in other.named_parameters() if p.ndim == 2 and "blocks" in name]
    chosen = {id(p) for p in matrices}
    optimizers = [
        torch.optim.AdamW([p for p in other.parameters() if id(p) not in chosen], 2e-3, (0.9, 0.98), weight_decay=0.0),
        torch.optim.Muon(matrices, lr=2e-3, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
    ]
    mean = [p.detach().clone() for p in other.parameters()]
    for k in range(4):
        trainer.step()
        (30 * (other(x[k]) - y[k]).square().mean()).backward()
        nn.utils.clip_grad_norm_(other.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        mean = [0.75 * m + 0.25 * p.detach() for m, p in zip(mean, other.parameters(), strict=True)]
    for got, wanted in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)
    for got, wanted in zip(trainer.average.parameters(), mean, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


def test_only_training_pictures_are_drawn_and_only_some_are_mirrored():
    data = pictures()
    torch.manual_seed(0)
    shelf = gpu.Pictures(data, CPU)
    rows, drawn, label = shelf.draw(2000)
    train = data.rows("train")
    assert set(rows.tolist()) == set(range(len(train)))
    own = data.images(train)[rows]
    same, mirrored = ((drawn - x).abs().amax((1, 2, 3)) == 0 for x in (own, own.flip(-1)))
    assert bool((same | mirrored).all())
    assert set(label[mirrored].tolist()) == {0}  # hands, clocks and flags have a side
    assert float(mirrored[label == 0].float().mean()) == pytest.approx(0.5, abs=0.07)
    assert torch.equal(label, data.label[train][rows])


def test_captions_come_with_the_chances_that_are_named():
    data, n = pictures(), 20_000
    known = {
        word: 3 + k for k, word in enumerate(["face", "hand", "clock", "flag", "flat", "style", *map(str, range(40))])
    }
    torch.manual_seed(0)
    captions = gpu.Captions(data, known, 14, CPU)
    row = 6
    ids = captions.draw(torch.full((n,), row))
    picture = int(data.rows("train")[row])
    name, class_name = data.caption[picture], data.classes[data.label[picture]]
    wanted = {"": 0.1, name: 0.9 * 0.85 * 0.4, f"{name} flat style": 0.9 * 0.85 * 0.6,
              class_name: 0.9 * 0.15 * 0.4, f"{class_name} flat style": 0.9 * 0.15 * 0.6}  # fmt: skip
    for text, share in wanted.items():
        seen = (ids == tokenize([text], known, 14)).all(1).float().mean()
        assert float(seen) == pytest.approx(share, abs=4 * (share / n) ** 0.5), text


def test_training_saves_what_can_be_loaded_and_says_what_it_did(tmp_path):
    data = pictures()
    torch.manual_seed(0)
    model = dit.build(16, 2, 1, len(data.classes))
    trainer = gpu.Trainer(model, gpu.dit_loss(model, gpu.Pictures(data, CPU), len(data.classes)), 4)
    save = gpu.saved_dit(trainer.average, data.classes, tmp_path / "dit")
    facts = gpu.train(trainer, 0.02, 1e-3, save, keep=[4])
    assert facts["images"] == 4 * facts["steps"] > 0
    assert json.loads((tmp_path / "dit-4" / "training.json").read_text()) == {"steps": 1, "images": 4}
    loaded = load_dit(str(tmp_path / "dit"), device=CPU, time_embedding="diffusers")
    assert loaded.classes == data.classes
    for got, wanted in zip(loaded.model.parameters(), trainer.average.parameters(), strict=True):
        assert torch.equal(got, wanted.half().float())
