"""Figure 1 and Table 1 from the embedded models by one call, in the smallest size; the embedded models' own cards."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch

from classify_clip import figure1, generation, models, retrieval, sweep
from classify_clip.data import held_out
from interventions import SpecError, parse
from tracer.cli import figure1 as command
from tracer.denoisers.images import from_uint8


def test_one_call_makes_figure_table_and_the_matched_comparison_and_a_second_only_draws(tmp_path, monkeypatch):
    size = figure1.Size(8, 4, one_pass=3, samples=3, contrast=3, steps=2, mask_seeds=1, model_seeds=1, explained=2)
    options = {"densities": (0.25,), "families": ("local", "random", "hub-spoke"), "size": size}
    drawings = generation.balanced_reference()[::11]  # two of every class
    monkeypatch.setattr(generation, "balanced_reference", lambda: drawings)
    said = []
    out = command.figure1(tmp_path / "figure1", say=said.append, **options)
    for name in ("figure1.png", "matched.png", "depth.png"):
        assert (out / name).stat().st_size > 10_000
    table = pd.read_csv(out / "table1.csv")
    assert set(table["task"]) == {"classify", "retrieve", "generate"}
    assert set(table["strategy"]) == {"hub-spoke"}  # the published table has no ablations
    matched = pd.read_csv(out / "matched.csv")
    assert set(matched["family"]) == {"local", "random", "hub-spoke", "unrelated pictures"}
    assert {"clip", "vit", "vit-cls", "dit-long, generation", "dit-long, one pass t=500"} <= set(matched.columns)
    assert (
        matched.drop(columns=["family", "density asked"]).iloc[-1] > 1
    ).all()  # how far unrelated pictures are apart
    pairs = pd.read_csv(out / "pairs.csv")
    assert set(pairs["model"]) == {"clip", "vit", "vit-cls", "dit-long"}
    assert set(zip(pairs["first"], pairs["second"], strict=True)) == {("local", "random")}
    assert "vit: top-1 accuracy" in said[-1]

    def refuse(*args, **kwargs):
        raise AssertionError("a cell was computed again")

    monkeypatch.setattr(sweep.store.UnitBuffer, "final", refuse)
    drawn = []
    monkeypatch.setattr(command, "draw", lambda measured, *where: drawn.append(measured))
    command.figure1(tmp_path / "figure1", **options)
    assert len(drawn[0].tasks) == 4  # read from the disk and handed to be drawn again


def test_densities_that_a_family_cannot_reach_are_left_out_and_said():
    said = []
    found = figure1.reachable((0.005, 0.25), ("local", "random"), said.append)
    assert set(found.values()) == {0.25}
    assert len(said) == 2
    assert "density 0.005" in said[0]


@pytest.mark.parametrize("name", list(models.CLASSIFIERS))
def test_the_embedded_classifiers_are_as_good_as_their_cards_say(name):
    card = json.loads((models.CLASSIFIERS[name] / "config.json").read_text())["trained"]
    data = held_out("held-out-concepts")
    classifier = models.load_classifier(name, device="cpu")
    with torch.no_grad():
        seen = torch.cat([classifier.model(part).argmax(1) for part in from_uint8(data.pixels).split(100)])
    right = seen.numpy() == data.label
    assert right.mean() == pytest.approx(card["accuracy"]["held-out-concepts"], abs=0.004)  # two drawings may flip
    assert right.mean() > 0.7


def test_the_embedded_clip_is_as_good_as_its_card_says():
    card = json.loads((models.RETRIEVERS["clip"] / "open_clip_config.json").read_text())["trained"]
    pairs = held_out("held-out-concepts").pairs()
    made = retrieval.embeddings(models.load_retriever(device="cpu"), pairs, parse("clean"))
    known = card["recall_at_1"]["held-out-concepts"]
    for way, found in (
        ("image-to-text", retrieval.ranks(made.image, made.text, pairs.image_group, pairs.text_group)),
        ("text-to-image", retrieval.ranks(made.text, made.image, pairs.text_group, pairs.image_group)),
    ):
        assert retrieval.recall(found)[1] == pytest.approx(known[way], abs=0.02)
        assert retrieval.recall(found)[1] > 10 / 109  # chance is 1 in 109 names


def test_a_second_seed_is_another_model_of_the_same_recipe():
    first, second = (
        json.loads((models.CLASSIFIERS[name] / "config.json").read_text()) for name in ("vit", "vit-seed1")
    )
    assert (first["trained"]["seed"], second["trained"]["seed"]) == (0, 1)
    for what in ("steps", "images_seen"):
        assert first["trained"][what] == second["trained"][what]
    assert first["model_args"] == second["model_args"]
    weights = [models.load_classifier(name, device="cpu").model.head.weight for name in ("vit", "vit-seed1")]
    assert torch.nn.functional.cosine_similarity(*(w.flatten() for w in weights), dim=0).abs() < 0.5


def test_more_trained_seeds_than_there_are_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(SpecError, match="--model-seeds 3: there are 2 trained seeds"):
        figure1.measure(tmp_path / "figure1", size=figure1.Size(model_seeds=3))
    assert not (tmp_path / "figure1").exists()


def test_the_card_names_the_figures_of_the_configurations():
    card = (models.EMBEDDED / "README.md").read_text()
    for name in models.CLASSIFIERS:
        trained = json.loads((models.CLASSIFIERS[name] / "config.json").read_text())["trained"]
        line = next(line for line in card.splitlines() if line.startswith(f"| `{name}` "))
        figures = [float(x) for x in re.findall(r"(\d+\.\d)%", line)]
        assert figures == [round(100 * value + 1e-9, 1) for value in trained["accuracy"].values()]
        assert f"{trained['images_seen']:,}" in line
    assert np.load(models.EMBEDDED / "held_out.npz")["pixels"].shape[0] == 1002
