"""A batch that does not fit into the memory is halved and the run goes on, with the same numbers."""

import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch

import tracer
from interventions import parse
from tests.builders.analytic import Analytic
from tests.builders.diverging import LAM
from tests.ground_truth import gaussian
from tracer.batches import Batches, Limits, MemoryShort
from tracer.denoisers import Evaluation, Sample, load
from tracer.denoisers.base import Moment
from tracer.samplers import Prediction

ARMS = ["R1S0", "R2S0@strength=0.3"]
SETTINGS = {"samples": 6, "steps": 5, "batch_size": 5, "floor": False, "sampler": "ddpm", "record": "verdict,finals"}
NORMS = SETTINGS | {"record": "norms"}


class Tight(Analytic):
    """Runs out of memory when more rows (lanes x samples) than `most` are asked for."""

    most, error, refused = 10**9, torch.OutOfMemoryError("CUDA out of memory. Tried"), 0

    @contextmanager
    def opened(self, samples, **settings):
        with super().opened(samples, **settings) as evaluation:

            def predict(x, moment, lanes):
                assert x.shape[:2] == (len(lanes), len(samples))
                if len(lanes) * len(samples) > self.most:
                    self.refused += 1
                    raise self.error
                return evaluation.predict(x, moment, lanes)

            yield Evaluation(predict)


def tight(most, error=None):
    calm = gaussian.gaussian_denoiser(LAM)
    denoiser = Tight(calm, gaussian.affine_mask(calm, scale=0.95, shift=0.02), fraction=0.4)
    denoiser.most, denoiser.error = most, error or Tight.error
    return denoiser


def arrays(path):
    tree = tracer.open_run(path)
    return {f"{node.path}/{name}": a.values for node in tree.subtree for name, a in node.data_vars.items()}


@pytest.fixture(scope="module")
def roomy(tmp_path_factory):
    return arrays(tracer.trace(tight(10**9), ARMS, out=tmp_path_factory.mktemp("roomy") / "run", **SETTINGS))


@pytest.mark.parametrize(
    ("most", "last"), [(15, "5 samples x 3 lanes"), (5, "5 samples x 1 lane"), (1, "1 sample x 1 lane")]
)
def test_halves_give_the_very_numbers_of_the_whole(tmp_path, roomy, most, last):
    denoiser = tight(most)
    with pytest.warns(UserWarning, match=r"out of memory with 5 samples x \d+ lanes in a batch: going on with") as told:
        path = tracer.trace(denoiser, ARMS, out=tmp_path / "run", **SETTINGS)
    assert arrays(path).keys() == roomy.keys()
    for name, values in arrays(path).items():
        np.testing.assert_array_equal(values, roomy[name], err_msg=name)
    (launch,) = (path / "launches").iterdir()
    said = json.loads(launch.read_text())["halved"]
    assert said == [str(warning.message) for warning in told]
    assert said[-1].endswith(f"going on with {last}")
    assert denoiser.refused == len(said)  # once halved it stays so, also for the second unit


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce fail] ... can't allocate memory: you tried")])
@pytest.mark.filterwarnings("ignore:out of memory")
def test_memory_that_runs_out_on_a_cpu_is_treated_alike(tmp_path, roomy, error):
    path = tracer.trace(tight(7, error), ARMS, out=tmp_path / "run", **NORMS)
    np.testing.assert_array_equal(arrays(path)["/metrics/delta_l2"], roomy["/metrics/delta_l2"])


@pytest.mark.filterwarnings("ignore:out of memory")
def test_one_sample_that_does_not_fit_says_what_to_do(tmp_path):
    with pytest.raises(MemoryShort, match=r"one sample under one lane does not fit.*--dtype bfloat16"):
        tracer.trace(tight(0), ARMS, out=tmp_path / "run", **NORMS)


def test_another_error_is_no_matter_of_memory(tmp_path):
    denoiser = tight(3, RuntimeError("sizes do not match"))
    with pytest.raises(RuntimeError, match="sizes do not match"):
        tracer.trace(denoiser, ARMS, out=tmp_path / "run", **NORMS)
    assert denoiser.refused == 1


@pytest.mark.filterwarnings("ignore:out of memory")
def test_the_seam_is_whole_again_after_a_forward_that_ran_out_of_memory(tmp_path, monkeypatch):
    """The embedded DiT, which fails in the middle of a forward of more than two rows; sinks are recorded."""
    settings = {"samples": 2, "steps": 2, "batch_size": 2, "record": "norms,mass,sinks", "guidance": 1, "floor": False}
    arms = ["R2S4", "sink-k1@source=clean"]
    whole = arrays(tracer.trace(load("dit", device="cpu"), arms, out=tmp_path / "whole", **settings))
    denoiser = load("dit", device="cpu")
    block = denoiser.model.transformer_blocks[3].ff

    def short(module, given):
        if len(given[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    block.register_forward_pre_hook(short)
    halved = arrays(tracer.trace(denoiser, arms, out=tmp_path / "halved", **settings))
    for name, values in whole.items():  # another batch size rounds otherwise, which may swap two sinks that are even
        same = np.isclose(halved[name], values, rtol=2e-3, atol=2e-3, equal_nan=True)
        assert same.mean() > 0.99, name


@pytest.mark.parametrize(("guidance", "lanes"), [(1, 6), (3, 3)])  # 32 rows: 6 lanes of 5 samples, or 3 in two halves
def test_guidance_counts_in_the_rows_of_a_call(tmp_path, guidance, lanes):
    seen = []

    class Counted(Tight):
        @contextmanager
        def opened(self, samples, **settings):
            with super().opened(samples, **settings) as evaluation:

                def predict(x, moment, lanes):
                    seen.append(len(lanes))
                    return evaluation.predict(x, moment, lanes)

                yield Evaluation(predict)

    calm = gaussian.gaussian_denoiser(LAM)
    denoiser = Counted(calm, gaussian.affine_mask(calm, scale=0.95, shift=0.02), fraction=0.4)
    arms = [f"R1S0@strength={dose}" for dose in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)]
    settings = SETTINGS | {"record": "norms", "samples": 5, "steps": 2, "guidance": guidance}
    tracer.trace(denoiser, arms, out=tmp_path / "run", **settings)
    assert max(seen) == lanes


def test_a_denoiser_that_always_records_every_lane_is_cut_to_those_that_are_asked_for():
    class Everything:
        @contextmanager
        def opened(self, samples):
            count = []

            def predict(x, moment, lanes):
                count[:] = [len(lanes)]
                return Prediction(x)

            yield Evaluation(predict, lambda: {"mass_layer": torch.arange(count[0]).float().reshape(-1, 1)})

    x = torch.zeros(5, 2, 1, 4, 4)
    with Batches(Everything().opened, [Sample(0, 0), Sample(1, 1)], Limits(lanes=2)) as batches:
        _, recorded = batches.evaluate(x, Moment(0, 1, 1.0, 1.0, 0.0), [parse("clean")] * 5, measured=3)
        assert recorded["mass_layer"].flatten().tolist() == [0, 1, 0]  # of the calls of lanes 0-1, 2-3 and 4
        assert batches.evaluate(x, Moment(0, 1, 1.0, 1.0, 0.0), [parse("clean")] * 5, measured=0)[1] == {}
