"""The floor that nobody named runs on the first samples of a run: which they are, what it costs, what is read."""

import numpy as np
import pytest
import torch

import tracer
from tests.builders.analytic import Analytic
from tests.ground_truth import gaussian
from tracer import store
from tracer.batches import Limits
from tracer.cli.summary import described, summary
from tracer.denoisers import Evaluation
from tracer.plan import plan
from tracer.request import FLOOR_SAMPLES, Request

LAM = np.geomspace(10, 0.1, 64).reshape(1, 8, 8)
SETTINGS = {"samples": 9, "steps": 5, "sampler": "ddpm", "record": "latents,replay,images", "progress": False}


class Rounding(Analytic):
    """The floor's prediction is off by 1e-7 times the state, and every evaluated row is written down.

    fails: sample and step whose clean prediction is NaN; stops: the sample before which it gives up.
    """

    rows, fails, stops = (), None, None

    def opened(self, samples, **settings):
        return _Opened(self, samples, super().opened(samples, **settings))


class _Opened:
    def __init__(self, denoiser, samples, inner):
        self.denoiser, self.samples, self.inner = denoiser, samples, inner

    def __enter__(self):
        evaluation, own = self.inner.__enter__(), self.denoiser

        def predict(x, moment, lanes):
            if own.stops in [sample.index for sample in self.samples]:
                raise KeyboardInterrupt
            own.rows = (*own.rows, *((str(lane), sample.index) for lane in lanes for sample in self.samples))
            result = evaluation.predict(x, moment, lanes)
            is_floor = torch.tensor([str(lane) == "full" for lane in lanes])[:, None, None, None, None]
            result.value[:] += 1e-7 * is_floor * x
            for column, sample in enumerate(self.samples):
                if own.fails == (sample.index, moment.step):
                    result.value[:, column] = torch.nan
            return result

        return Evaluation(predict)

    def __exit__(self, *exception):
        return self.inner.__exit__(*exception)


def system(**attributes):
    clean = gaussian.gaussian_denoiser(LAM)
    denoiser = Rounding(clean, gaussian.affine_mask(clean, scale=0.95, shift=0.02))
    for name, value in attributes.items():
        setattr(denoiser, name, value)
    return denoiser


def made(folder, arms="R1S0", denoiser=None, **settings):
    return tracer.trace(denoiser or system(), arms, out=folder, **(SETTINGS | settings))


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory):
    """The floor as an arm that was named, on all samples."""
    return tracer.open_run(made(tmp_path_factory.mktemp("floor") / "run", ["R1S0", "full"]))


@pytest.mark.parametrize("batch_size", [1, 3, 4, 6, 9])
def test_the_first_samples_have_the_floor_and_nothing_else_changes(tmp_path, everywhere, batch_size):
    """Equal to the run with the floor on every sample, whichever unit it ends in; 1e-12: float64."""
    run = tracer.open_run(made(tmp_path / "run", batch_size=batch_size))
    first = np.arange(9) < FLOOR_SAMPLES
    assert run["status"].values.tolist() == [[1] * 9, [1] * 9, np.where(first, 1, 3).tolist()]
    for node in everywhere.subtree:
        for name, was in node.to_dataset(inherit=False).data_vars.items():
            if "arm" not in was.dims or name in ("status", "failed_step"):
                continue
            now = run[node.path][name]
            np.testing.assert_allclose(now.isel(arm=[0, 1]), was.isel(arm=[0, 1]), rtol=1e-12, atol=1e-14, err_msg=name)
            own, same = now.isel(arm=2, sample=first), was.isel(arm=2, sample=first)
            np.testing.assert_allclose(own, same, rtol=1e-12, atol=1e-14, err_msg=name)
            rest = now.isel(arm=2, sample=~first)
            assert (rest.isnull() if rest.dtype.kind == "f" else rest == now.encoding.get("_FillValue", 0)).all()
    final = run["metrics"].delta_l2.sel(arm="full").isel(step=-1)[:FLOOR_SAMPLES]
    assert ((final > 1e-9) & (final < 1e-4)).all()
    report = store.verify(tmp_path / "run")
    assert report.whole, report
    assert (report.complete, report.missing, report.failed) == (9, (), ())


@pytest.mark.parametrize("limits", [{"samples": 3}, {"samples": 1, "lanes": 1}, {"lanes": 2}])
def test_the_floor_ends_where_it_should_also_in_batches_that_were_halved(tmp_path, monkeypatch, everywhere, limits):
    """Parts of three samples and a floor of four: cut at 3, 4 and 6."""
    monkeypatch.setattr("tracer.run.Limits", lambda announce: Limits(announce=announce, **limits))
    denoiser = system()
    run = tracer.open_run(made(tmp_path / "run", denoiser=denoiser, batch_size=9))
    np.testing.assert_allclose(run["metrics"].delta_l2[1], everywhere["metrics"].delta_l2[1], rtol=1e-12)
    np.testing.assert_allclose(run["metrics"].delta_l2[2, :4], everywhere["metrics"].delta_l2[2, :4], rtol=1e-12)
    assert sum(lane == "full" for lane, _ in denoiser.rows) == 5 * FLOOR_SAMPLES


@pytest.mark.parametrize(("batch_size", "named"), [(3, False), (9, False), (6, True)])
def test_what_is_evaluated_is_what_was_counted(tmp_path, batch_size, named):
    """The lanes of the floor are evaluated for its samples only. By hand: 5 steps of clean, arm, injection and replay,
    the last three in one lane at the first; and 5 of the floor."""
    denoiser = system()
    arms = ["R1S0", "full"] if named else "R1S0"
    path = made(tmp_path / "run", arms, denoiser, batch_size=batch_size)
    under = 9 if named else FLOOR_SAMPLES
    assert sum(lane == "full" for lane, _ in denoiser.rows) == 5 * under
    assert {sample for lane, sample in denoiser.rows if lane == "full"} == set(range(under))
    asked = Request(denoiser, arms, batch_size=batch_size, **SETTINGS)
    assert len(denoiser.rows) == plan(asked).evaluations() == 9 * (2 + 4 * 4) + 5 * under
    assert tracer.open_run(path)["status"].sel(arm="full").values.tolist() == [1] * under + [3] * (9 - under)


@pytest.mark.parametrize(("samples", "floor"), [(3, 3), (12, 4), (1000, 4)])
def test_a_long_run_pays_for_few_floors(samples, floor):
    """Guidance doubles all; 100 steps of four lanes, two at the first."""
    checked = plan(Request("dit", "R4S32", samples=samples, steps=100))
    without = plan(Request("dit", "R4S32", samples=samples, steps=100, floor=False), checked.denoiser)
    assert without.evaluations() == 2 * samples * (4 * 99 + 2)
    assert checked.evaluations() == without.evaluations() + 2 * floor * 100
    assert checked.of(checked.samples[4:]).arms == without.arms[: len(checked.arms)] or samples <= 4


def test_a_run_that_was_stopped_goes_on_and_has_the_floor_where_it_belongs(tmp_path, everywhere):
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "run", denoiser=system(stops=3), batch_size=3)
    assert tracer.open_run(tmp_path / "run")["status"].sel(arm="full").values.tolist() == [1] * 3 + [0] * 6
    path = made(tmp_path / "run", batch_size=3, resume=True)
    run = tracer.open_run(path)
    assert run["status"].sel(arm="full").values.tolist() == [1] * 4 + [3] * 5
    np.testing.assert_allclose(run["metrics"].delta_l2[1], everywhere["metrics"].delta_l2[1], rtol=1e-12)
    with store.Writer(path) as writer:
        assert writer.pending() == []


@pytest.mark.filterwarnings("ignore:1 of 9 samples")
def test_a_sample_that_diverged_is_not_flagged_where_the_floor_is_not_run(tmp_path):
    run = tracer.open_run(made(tmp_path / "run", denoiser=system(fails=(6, 2)), batch_size=9))
    assert run["status"].values[:, 6].tolist() == [2, 2, 3]
    assert run["metrics/failed_step"].values[:2, 6].tolist() == [2, 2]
    assert store.verify(tmp_path / "run").failed == (6,)


def test_show_says_where_it_is_not_run_and_the_command_names_a_floor_that_was_named(tmp_path):
    made(tmp_path / "few")
    about = summary(tmp_path / "few")
    assert about["complete"] == 9
    assert about["arms"][2] == {"arm": "full", "complete": 4, "failed": 0, "unasked": 5}
    assert any("full 4 (not run on 5)" in line for line in described(about))
    for name, arms, options in (
        ("few", "R1S0", {}), ("none", "R1S0", {"floor": False}), ("named", ["full", "R1S0"], {}),
    ):  # fmt: skip
        path = made(tmp_path / name, arms, **options) if name != "few" else tmp_path / name
        words = summary(path)["command"]
        assert ("--mask full --mask R1S0" in words, "--no-floor" in words) == (name == "named", name == "none")


def test_many_arms_share_a_shard_or_have_one_each_and_an_arm_that_is_not_run_has_no_file(tmp_path, monkeypatch):
    """Where every arm has shards of its own, those of the floor are made for its units only."""
    monkeypatch.setattr("tracer.store.cut._JOINT_ARMS_BYTES", 0)
    path = made(tmp_path / "run", batch_size=3)
    assert store.verify(path).whole
    names = [file.name for file in (path / "trace.zarr/trajectory/delta").glob("c.*")]
    assert {name.split(".")[2] for name in names if name.startswith("c.2.")} == {"0", "1"}
    assert {name.split(".")[2] for name in names if name.startswith("c.1.")} == {"0", "1", "2"}
    assert tracer.open_run(path)["trajectory"].delta.sel(arm="full").isel(sample=slice(4, None)).isnull().all()
