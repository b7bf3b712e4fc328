"""Lanes of one batch under the seam: rows of each, both guidance halves, and which of them are measured."""

import numpy as np
import pytest
import torch

from interventions.seam.attend import attend
from interventions.spec import parse
from tests.builders import models
from tests.oracles import dense

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def test_lanes_are_row_blocks_inside_each_half_and_clean_lanes_are_stock():
    # rows: 2 halves x 3 lanes x 2 samples; each lane must equal the same rows run alone
    model, layout = models.dit()
    inputs = models.dit_inputs(batch=12)
    specs = [parse("clean"), parse("R1S2"), parse("K4N2")]
    rows = np.arange(12).reshape(2, 3, 2)
    with attend(model, specs, layout=layout, samples=[7, 8]):
        together = model(**inputs).sample
    for lane, spec in enumerate(specs):
        mine = rows[:, lane].ravel()
        with attend(model, spec, layout=layout):
            alone = model(**{key: value[mine] for key, value in inputs.items()}).sample
        assert dense.relative(together[mine], alone) < 1e-6


def test_lanes_can_change_between_steps():
    model, layout = models.dit()
    inputs = models.dit_inputs(batch=2)
    stock = model(**inputs).sample
    with attend(model, parse("R1S2"), layout=layout) as recorder:
        recorder.begin(0, 4)
        masked = model(**inputs).sample
        recorder.begin(1, 4, [parse("R1S2"), parse("clean")])
        mixed = model(**inputs).sample
    assert dense.relative(mixed[0], masked[0]) < 1e-6
    assert dense.relative(mixed[1], stock[1]) < 1e-6
    assert dense.relative(masked[1], stock[1]) > 1e-2


def test_a_batch_that_does_not_fit_the_lanes_is_refused():
    model, layout = models.dit()
    with (
        pytest.raises(ValueError, match="2 rows is not a multiple of 2 lanes x 3 samples"),
        attend(model, [parse("clean"), parse("R1S2")], layout=layout, samples=[0, 1, 2]),
    ):
        model(**models.dit_inputs(batch=2))


@pytest.mark.parametrize("half", [0, -1])
@pytest.mark.parametrize("lanes", [("clean", "clean"), ("clean", "R1S2"), ("clean", "sink-k2", "random-k2")])
@pytest.mark.parametrize("name", ["dit", "sd3"])
def test_one_half_of_a_guided_batch_alone_is_measured_as_among_both(name, lanes, half):
    model, layout = getattr(models, name)()
    inputs = getattr(models, f"{name}_inputs")(4 * len(lanes))  # 2 halves x lanes x 2 samples
    specs = [parse(lane) for lane in lanes]
    taken, outputs = [], []
    for kept in (None, half):
        options = {"layout": layout, "samples": [5, 6], "record": ("mass-per-head", "entropy", "sinks"), "half": kept}
        with attend(model, specs, **options) as recorder:
            outputs.append(model(**inputs).sample)
            taken.append(recorder.take())
    both, alone = taken
    assert dense.relative(*outputs) < 5e-6  # the other half is answered by torch's own kernel
    assert both.keys() == alone.keys()
    for record, value in alone.items():
        assert value.shape[0] == 1
        torch.testing.assert_close(value[0], both[record][half], rtol=0, atol=0, equal_nan=True, msg=record)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_the_first_lanes_alone_are_measured_as_among_all(count):
    model, layout = models.sd3()
    specs = [parse(lane) for lane in ("clean", "R1S2", "sink-k2")]
    inputs = models.sd3_inputs(4 * len(specs))  # 2 halves x lanes x 2 samples
    options = {"layout": layout, "samples": [5, 6], "record": ("mass-per-head", "entropy", "sinks"), "half": -1}
    with attend(model, specs, **options) as recorder:
        outputs, every = model(**inputs).sample, recorder.take()
        recorder.measure(count)
        assert torch.equal(model(**inputs).sample, outputs)
        some = recorder.take()
    assert some.keys() == (every.keys() if count else set())
    for record, value in some.items():
        width = value.shape[-1]  # of removed keys: as many as any measured lane removes
        expected = every[record][:, :count, ..., :width]
        torch.testing.assert_close(value, expected, rtol=0, atol=0, equal_nan=True, msg=record)


def test_measuring_some_lanes_of_both_halves_is_refused():
    model, layout = models.dit()
    lanes = [parse("clean"), parse("R1S2")]
    seam = attend(model, lanes, layout=layout, samples=[5], record=("mass",))
    with pytest.raises(ValueError, match="half=0 or half=-1"), seam as recorder:  # noqa: PT012
        recorder.measure(1)
        model(**models.dit_inputs(4))


@pytest.mark.parametrize("spec", ["R1S2", "sink-k2", "random-k2", "sink-k2@source=clean"])
def test_neighbours_under_one_intervention_are_as_lanes_apart(spec):
    model, layout = models.sd3()
    inputs = models.sd3_inputs(8)  # 4 lanes x 2 samples
    lanes, options = [parse(name) for name in ("clean", spec, spec, "clean")], {"layout": layout, "samples": [5, 6]}
    record = ("mass-per-head", "sinks")
    with attend(model, lanes, record=record, **options) as recorder:
        together, taken = model(**inputs).sample.unflatten(0, (4, 2)), recorder.take()
    for lane in (1, 2):
        rows = [0, 1, 2 * lane, 2 * lane + 1]
        with attend(model, lanes[:2], record=record, **options) as recorder:
            alone = model(**{name: value[rows] for name, value in inputs.items()}).sample.unflatten(0, (2, 2))
            seen = recorder.take()
        assert dense.relative(together[lane], alone[1]) < 1e-6
        for name, value in seen.items():
            torch.testing.assert_close(taken[name][:, lane], value[:, 1], rtol=1e-5, atol=1e-6, equal_nan=True)
