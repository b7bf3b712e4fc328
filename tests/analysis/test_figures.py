"""Figures: they look as they did, nothing is clipped or collides, text is text, colours mean one thing.

The baselines are made with `pytest tests/analysis/test_figures.py --mpl-generate-path=tests/analysis/baseline`; look at
them before they are committed.
"""

import functools
import io
import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.testing.compare import calculate_rms
from matplotlib.text import Text
from PIL import Image

import analysis
from analysis.figures import mask as mask_figure
from analysis.figures import style
from interventions import TokenLayout, parse
from tests.builders import anatomies, densities, removals, synthetic
from tests.builders.recorded import recorded
from tests.builders.replayed import answered

TOLERANCE = 2.0
"""Root mean square of the difference of two pictures, of 255: one more letter in a title is seen.

Glyphs are unhinted and of matplotlib's own font, so they lie in the same places everywhere; the grey of their edges may
differ.
"""
DPI = 60
BASELINE = Path(__file__).parent / "baseline"


def window(start: int, stop: int, **options) -> dict:
    return {"shift": 0.05, "window": range(start, stop)} | options


def of_run(masks: dict, **options) -> xr.DataTree:
    return synthetic.gaussian_run(masks, **options)


def two_settings() -> list[xr.DataTree]:
    log_a = np.array([0.1, 0.4, -0.2, 0.3, 0.0])
    first = recorded({"R4S32": log_a, "K64": log_a + 1}, guidance=1.0)
    return [first, recorded({"R4S32": log_a + 0.5, "K64": log_a + 1}, guidance=1.5)]


def scored() -> xr.DataTree:
    """A run of four arms with a metric of single pictures, one of whole sets."""
    arms, rng = ["clean", "R4S32", "sink-k5@layers=6,12,18;strength=0.3", "full"], np.random.default_rng(0)
    coords = {"arm": arms, "sample": np.arange(12)}
    about = {"name": "judge", "title": "share the judge recognises", "kind": "score", "higher_is_better": True}
    score = rng.uniform(size=(4, 12)) < np.array([0.8, 0.4, 0.6, 0.8])[:, None]
    features = rng.normal(size=(4, 12, 6)) + np.array([0, 1, 0.5, 0])[:, None, None]
    features[3] = features[0]
    other = {"name": "mmd", "title": "squared MMD to clean, embedded CLIP (x 1000)", "kind": "distance"}
    tree = {
        "/": xr.Dataset({"status": (("arm", "sample"), np.ones((4, 12), np.int8))}, coords=coords),
        "/scores/judge": xr.Dataset({"score": (("arm", "sample"), score.astype(float))}, coords, about),
        "/scores/mmd": xr.Dataset(
            {"features": (("arm", "sample", "feature"), features)},
            coords,
            other | {"higher_is_better": False, "distance": "mmd"},
        ),
    }
    tree = xr.DataTree.from_dict(tree)
    tree.attrs = {"config": json.dumps({"model": "dit", "sampler": "ddpm", "steps": 2, "guidance": 1.0})}
    return tree


LONG = "sink-k5@layers=6,12,18;strength=0.3"
PULSES = {f"R4S32@steps={k}:{k + 1}": window(k, k + 1, scale=0.95) for k in range(12)}
PARTS = {f"R4S32@steps={a}:{b}": window(a, b) for a, b in ((0, 4), (4, 8), (8, 12), (0, 8))}
PARTS |= {"R4S32@pause=4:8": window(0, 4) | {"window": [*range(4), *range(8, 12)]}}
PARTS |= {f"{mask}@strength={dose}": {"shift": 0.05 * dose} for mask in ("R4S32", "K8") for dose in (0.1, 0.3)}
WHOLE = {"R4S32": {"shift": 0.05}, LONG: {"scale": 0.95}}
SHAPE_ONLY = {"decomposition": False, "null": False, "samples": 12}

RATIOS = {"R4S32": {"S": np.exp(np.linspace(-0.1, 0.3, 16))}, "K64": {"S": 2.0}}

RUNS = {  # the measures of one run, with what they are asked of
    "growth": lambda: of_run(WHOLE),
    "decompose": lambda: of_run(WHOLE, samples=12),
    "impulse": lambda: of_run({"R4S32": {"shift": 0.05, "scale": 0.95}} | PULSES),
    "counterfactual": lambda: of_run({"R4S32": {"shift": 0.05, "scale": 0.95}, "K8": {"shift": 0.02}} | PARTS),
    "bands": lambda: of_run(WHOLE),
    "null": lambda: of_run(WHOLE),
    "sinks": removals.made,
    "anatomy": lambda: anatomies.made("prompt"),
    "against": lambda: of_run(WHOLE, samples=12),
    "carried": lambda: of_run(WHOLE, samples=12, sampler="ddim"),
    "factors": lambda: of_run(WHOLE, samples=12),
    "compare": two_settings,
    "feedback": lambda: answered(RATIOS),
    "verdict": lambda: answered(RATIOS),
    "quality": scored,
}


@functools.cache
def measured(name: str) -> xr.Dataset:
    if name in RUNS:
        return analysis.MEASURES[name](RUNS[name]())
    tasks = densities.every_task()
    return {
        "depth": lambda: analysis.depth(densities.blocks()),
        "curves": lambda: analysis.curves(*tasks, resamples=200),
        "matched": lambda: analysis.matched(*tasks, densities.sweep("denoise", "dit", hurt=0.9, samples=12)),
    }[name]()


def drawn(name: str):
    return analysis.MEASURES[name].figure(measured(name))


def shape_of_growth():
    return analysis.growth.figure(analysis.growth(of_run({"R4S32": {"shift": 0.05}}, **SHAPE_ONLY)))


def published():
    return analysis.curves.figure(measured("curves").assign_attrs(published=1))


def effect_alone():
    return analysis.sinks.figure(analysis.sinks(removals.made(recorded=False)))


def mask():
    layout = TokenLayout((8, 8), prefix=1)
    return mask_figure.figure(parse("R2S4").mask(layout), layout, "R2S4 on 8 x 8")


FIGURES = {name: functools.partial(drawn, name) for name in (*RUNS, "depth", "curves", "matched")} | {
    "growth-shape": shape_of_growth, "curves-published": published, "sinks-effect": effect_alone, "mask": mask,
}  # fmt: skip
EVERY = pytest.mark.parametrize("name", FIGURES)


@EVERY
@pytest.mark.mpl_image_compare(
    baseline_dir="baseline", tolerance=TOLERANCE, style="default", savefig_kwargs={"dpi": DPI}
)
def test_it_looks_as_it_did(name):
    return FIGURES[name]()


@functools.cache
def figure_of(name: str):
    """A drawn figure that is only looked at; its layout has settled and is not made again when it is saved."""
    figure = FIGURES[name]()
    FigureCanvasAgg(figure).draw()
    figure.set_layout_engine("none")
    return figure


@functools.cache
def texts(name: str) -> list:
    """The visible texts of a drawn figure with their extents in pixels."""
    figure = figure_of(name)
    hidden = {text for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for text in _not_drawn(axis)}
    hidden |= {text for axes in figure.axes if not axes.get_visible() for text in axes.findobj(Text)}
    shown = []
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and text not in hidden:
            shown.append((text, text.get_window_extent()))
    return shown


def _not_drawn(axis) -> list:
    """The labels of ticks that an axis keeps but does not draw: of no place, or of one out of view."""
    low, high = sorted(axis.get_view_interval())
    slack = 1e-9 * abs(high - low)
    drawn = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    within = [tick for tick in drawn if low - slack <= tick.get_loc() <= high + slack]
    return [label for tick in axis.majorTicks + axis.minorTicks if tick not in within
            for label in (tick.label1, tick.label2)]  # fmt: skip


@EVERY
def test_no_text_leaves_the_figure(name):
    figure, shown = figure_of(name), texts(name)
    width, height = figure.get_size_inches() * figure.dpi
    outside = [
        text.get_text() for text, box in shown
        if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1
    ]  # fmt: skip
    assert not outside


@EVERY
def test_no_two_texts_cover_each_other(name):
    shown = texts(name)
    pairs = []
    for place, (one, box) in enumerate(shown):
        for other, another in shown[place + 1 :]:
            across = min(box.x1, another.x1) - max(box.x0, another.x0)
            along = min(box.y1, another.y1) - max(box.y0, another.y0)
            if one.get_rotation() == other.get_rotation() and min(across, along) > 2:
                pairs.append((one.get_text(), other.get_text()))
    assert not pairs


@EVERY
def test_panels_are_lettered_in_order_and_a_lone_one_is_not(name):
    panels = [axes for axes in figure_of(name).axes if axes.get_visible() and axes.get_label() != "<colorbar>"]
    titles = [axes.get_title(loc="left") for axes in panels]
    first = [title[0] for title in titles if title[1:3] == "  "]
    lettered = "abcdefghijklmnopqrstuvwxyz"[: len(titles)]
    assert "".join(first) == (lettered if len(lettered) > 1 else "")


@EVERY
def test_text_in_an_svg_is_text(name):
    file = io.BytesIO()
    figure = figure_of(name)
    figure.savefig(file, format="svg")
    svg = file.getvalue().decode()
    words = [axes.get_title(loc="left").split("\n")[0].split("  ")[-1] for axes in figure.axes if axes.get_visible()]
    words = [word for word in words if word]
    assert words
    for word in words:
        assert f">{word.split()[0]}" in svg or word in svg, word


ODD = "a $5 mask & a $6_{one}"


@pytest.mark.parametrize("name", ["growth", "decompose", "bands", "null", "quality", "compare", "impulse"])
def test_dollars_in_a_name_are_dollars(name):
    dataset = measured(name)
    where = "mask" if name == "impulse" else "arm"
    names = [ODD if str(value) == "R4S32" else str(value) for value in dataset[where].values]
    assert ODD in names
    file = io.BytesIO()
    analysis.MEASURES[name].figure(dataset.assign_coords({where: names})).savefig(file, format="svg")
    svg = file.getvalue().decode().replace("&amp;", "&")
    assert "$5 mask" in svg
    assert "$6_{one}" in svg


def test_an_arm_has_one_colour_in_all_panels_of_sinks():
    figure = figure_of("sinks")
    panels = {axes.get_title(loc="left")[0]: axes for axes in figure.axes if axes.get_title(loc="left")}
    lines = {line.get_label(): line.get_color() for line in panels["e"].lines}
    bars = [line.get_color() for line in panels["f"].lines if line.get_linewidth() == 3]
    order = ["sink-k1", "random-k1", "sink-k5", "random-k5@draw=fresh"]  # pair by pair, the sink first
    assert bars == [lines[arm] for arm in order]
    assert len(set(bars)) == 4
    others = [line.get_color() for panel in "ab" for line in panels[panel].lines]
    assert not set(others) & set(bars)


def test_an_arm_keeps_its_colour_from_figure_to_figure():
    colours = {}
    for name in ("growth", "bands", "decompose"):
        for axes in figure_of(name).axes:
            for container in [*axes.lines, *axes.containers]:
                line = container if hasattr(container, "get_color") else container.lines[0]
                if container.get_label() in WHOLE:
                    colours.setdefault(container.get_label(), set()).add(line.get_color())
    assert {name: len(found) for name, found in colours.items()} == dict.fromkeys(WHOLE, 1)


def test_arms_differ_by_more_than_colour():
    arms = [f"R{k}S1" for k in range(8)]
    assert len({style.look(arm, arms)["marker"] for arm in arms}) == 8


@pytest.mark.parametrize("name", ["growth", "bands", "impulse", "compare"])
def test_few_samples_are_said_on_the_figure(name):
    assert measured(name).attrs["samples"] < style.FEW
    assert f"below {style.FEW}" in figure_of(name).get_supxlabel().replace("\n", " ")


def test_enough_samples_are_not():
    assert f"below {style.FEW}" not in figure_of("decompose").get_supxlabel()


@pytest.mark.parametrize("name", ["growth", "decompose", "impulse", "counterfactual", "compare", "bands"])
def test_the_confidence_is_printed_as_it_was(name):
    dataset = analysis.MEASURES[name](RUNS[name](), confidence=0.8)
    heading = analysis.MEASURES[name].figure(dataset).legends[0].get_title().get_text()
    assert "80% BCa" in heading
    assert "95%" not in heading


@EVERY
def test_the_tolerance_sees_a_title_that_moves(name):
    figure = FIGURES[name]()
    axes = next(axes for axes in figure.axes if axes.get_title(loc="left"))
    title = axes.get_title(loc="left")
    axes.set_title("", loc="left")
    axes.text(0.08, 1.02, title, transform=axes.transAxes, fontsize=9, fontweight="bold", va="bottom")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    moved, kept = Image.open(file), Image.open(BASELINE / f"test_it_looks_as_it_did_{name}.png")
    moved, kept = (np.asarray(picture.convert("RGB")).astype(np.int16) for picture in (moved, kept))
    assert calculate_rms(kept, moved) > TOLERANCE
