"""Arms that change the network: exact where nothing changes, a memory for each path, and equal to plain loops."""

import copy
from functools import partial

import numpy as np
import pytest
import torch

import tracer
from interventions import SpecError, parse
from interventions.changes.together import Together
from tests.builders.changing import Network, changing, ddim, doubled_bias, empty, euler, every_second, x0_of
from tracer.noise import sample_noise
from tracer.plan import PlanError, plan
from tracer.request import Request
from tracer.samplers import SAMPLERS

EVERY = {"record": "norms,finals,latents,decomposition,replay,null,own", "floor": False, "samples": 3, "steps": 12}
ODE = EVERY | {"record": "norms,finals,latents,decomposition,replay"}
LOOPS = {"ddim": ddim, "flow": euler}


def run_of(path, denoiser, arms, **settings):
    return tracer.open_run(tracer.trace(denoiser, arms, out=path / "run", progress=False, **(ODE | settings)))


def system(sampler):
    return changing(prediction="flow" if sampler == "flow" else "epsilon")


def levels_of(run):
    steps = run["metrics"].to_dataset()
    pairs = list(zip(steps["alpha"].values, steps["sigma"].values, strict=True))
    return [*pairs, (steps["alpha_after"].values[-1], steps["sigma_after"].values[-1])]


def start_of(denoiser, sampler, **settings):
    samples = plan(Request(denoiser, ["steps3"], **settings)).samples
    return sample_noise(samples, -1, denoiser.shape, torch.empty(0, dtype=torch.float64)).numpy()


def final(run, arm):
    return (run["trajectory/latent"].isel(step=-1) + run["trajectory/final_delta"].sel(arm=arm)).values


def test_an_empty_context_and_an_equal_network_change_no_bit_of_the_embedded_dit(tmp_path):
    denoiser = tracer.load("dit")
    arms = [tracer.arm("empty", context=empty), tracer.arm("same", model=denoiser.model)]
    arms += [tracer.arm("twin", model=copy.deepcopy(denoiser.model)), "R4S32"]
    run = run_of(tmp_path, denoiser, arms, samples=2, steps=3, record="norms,finals,decomposition,mass")
    for arm in ("empty", "same", "twin"):
        for name in ("delta_l2", "eps_l2", "injected_l2", "interaction_l2"):
            assert (run["metrics"][name].sel(arm=arm) == 0).all(), (arm, name)
    assert (run["metrics/delta_l2"].sel(arm="R4S32").isel(step=-1) > 1).all()
    seen = run["attention/mass_layer"]
    assert np.isnan(seen.sel(arm="empty")).all()
    assert np.isfinite(seen.sel(arm=["clean", "R4S32"])).all()


@pytest.mark.parametrize("sampler", ["ddim", "flow"])
@pytest.mark.parametrize("count", [4, 5, 12])
def test_fewer_steps_are_the_plain_loop_on_the_coarser_levels(tmp_path, sampler, count):
    denoiser = system(sampler)
    run = run_of(tmp_path, denoiser, [f"steps{count}"], sampler=sampler)
    levels, x = levels_of(run), start_of(denoiser, sampler, **ODE)
    asked = sorted({-(-k * 12 // count) for k in range(count)})  # the first step of every group
    coarse = [levels[step] for step in asked] + [levels[-1]]
    *_, want = LOOPS[sampler](coarse, x, lambda step, x, alpha: x0_of(denoiser.model, x, alpha))
    assert len(asked) == count
    assert np.abs(final(run, f"steps{count}") - want).max() < 1e-11
    assert (count == 12) == bool((run["metrics/delta_l2"] < 1e-11).all())


def test_steps_under_a_held_prediction_add_up_to_the_posterior_of_the_long_step():
    for steps, group in ((12, 2), (12, 3)):
        fine = SAMPLERS["ddpm"].schedule(steps, "epsilon", {})
        keep = np.arange(0, steps + 1, group)
        coarse = type(fine)(fine.prediction, fine.timestep[keep[:-1]], fine.alpha[keep], fine.sigma[keep])
        p, q = SAMPLERS["ddpm"].factors(fine)
        want_p, want_q = SAMPLERS["ddpm"].factors(coarse)
        for long in range(steps // group - 1):
            of_state, of_prediction = 1.0, 0.0
            for i in range(long * group, (long + 1) * group):
                of_state, of_prediction = p[i] * of_state, p[i] * of_prediction + q[i]
            assert np.allclose([of_state, of_prediction], [want_p[long], want_q[long]], rtol=1e-9)


@pytest.mark.parametrize("sampler", ["ddim", "flow"])
def test_a_memory_is_made_along_its_own_path(tmp_path, sampler):
    """G(y) and G(x) of a cache against two plain loops: the second re-starts from the clean state at every step."""
    denoiser = system(sampler)
    run = run_of(tmp_path, denoiser, [tracer.arm("held", context=every_second)], sampler=sampler)
    levels, x = levels_of(run), start_of(denoiser, sampler, **ODE)
    network, loop = denoiser.model, LOOPS[sampler]
    clean = [x, *loop(levels, x, lambda step, x, alpha: x0_of(network, x, alpha))]
    answers = {}

    def held(step, x, alpha):
        """The cache of this system holds the network's x0."""
        if step % 2 == 0:
            answers["own"] = x0_of(network, x, alpha)
        return answers["own"]

    masked = [x, *loop(levels, x, held)]
    assert np.abs(final(run, "held") - masked[-1]).max() < 1e-12
    for step in range(12):
        source = step - step % 2  # G(x): what the cache holds of the clean states
        there = x0_of(network, clean[source], levels[source][0])
        (landed,) = loop(levels[step : step + 2], clean[step], lambda _, x, alpha, there=there: there)
        injected = np.linalg.norm((landed - clean[step + 1]).reshape(3, -1), axis=1)
        assert np.allclose(run["metrics/injected_l2"].isel(arm=1, step=step), injected, atol=1e-12)
    closure = run["metrics/closure"].sel(arm="held")
    assert float(closure.max()) < 1e-12


def test_a_dose_mixes_the_predictions(tmp_path):
    denoiser = system("ddim")
    run = run_of(tmp_path, denoiser, [tracer.arm("bias", context=doubled_bias).at(strength=0.25)], sampler="ddim")
    levels, x = levels_of(run), start_of(denoiser, "ddim", **ODE)
    bias = float(denoiser.model.bias.detach())
    *_, want = ddim(levels, x, lambda step, x, alpha: x0_of(denoiser.model, x, alpha) + 0.25 * bias)
    assert np.abs(final(run, "bias@strength=0.25") - want).max() < 1e-12


def test_a_sampler_as_an_arm_is_its_own_loop(tmp_path):
    denoiser = system("ddim")
    run = run_of(tmp_path, denoiser, ["sampler-ddim"], sampler="ddpm", record="norms,finals,latents")
    levels, x = levels_of(run), start_of(denoiser, "ddim", **EVERY)
    *_, want = ddim(levels, x, lambda step, x, alpha: x0_of(denoiser.model, x, alpha))
    assert np.abs(final(run, "sampler-ddim") - want).max() < 1e-11


ARMS = [
    tracer.arm("held", context=every_second),
    tracer.arm("held", context=every_second).at(steps=(3, 9)),
    tracer.arm("held", context=every_second).at(strength=0.5),
    tracer.arm("other", model=Network(weight=0.8)),
    tracer.arm("fewer", steps=5),
]


def values(run):
    return {f"{node.path}/{name}": array for node in run.subtree for name, array in node.data_vars.items()}


def same(one, other):
    """Every array of two runs but measured times, bit for bit, arms and samples by name."""
    for path, array in values(one).items():
        if "arm" in array.dims and not path.startswith(("/interventions", "/cost")):
            beside = values(other)[path].sel(arm=array.arm)
            assert np.array_equal(array.values, beside.values, equal_nan=array.dtype.kind == "f"), path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return run_of(tmp_path_factory.mktemp("undisturbed"), system("ddim"), ARMS, **EVERY, sampler="ddpm")


def test_neither_the_order_of_arms_nor_the_batch_matters(tmp_path, undisturbed):
    settings = EVERY | {"sampler": "ddpm", "batch_size": 1}
    same(undisturbed, run_of(tmp_path, system("ddim"), ARMS[::-1], **settings))


def test_a_run_that_was_stopped_goes_on_as_if_nothing_had_been(tmp_path, undisturbed):
    settings = EVERY | {"sampler": "ddpm", "batch_size": 2, "out": tmp_path / "run"}

    def stop(done, total):
        if done == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tracer.trace(system("ddim"), ARMS, progress=stop, **settings)
    same(undisturbed, tracer.open_run(tracer.trace(system("ddim"), ARMS, progress=False, resume=True, **settings)))


def test_memory_that_runs_out_starts_the_unit_again(tmp_path, undisturbed):
    denoiser = system("ddim")
    denoiser.most = 2
    with pytest.warns(UserWarning, match="out of memory with 3 samples x 1 lane"):
        same(undisturbed, run_of(tmp_path, denoiser, ARMS, **EVERY, sampler="ddpm"))


def test_an_arm_of_another_make_is_not_gone_on_with(tmp_path):
    settings = {"samples": 2, "batch_size": 1, "steps": 3, "record": "norms", "out": tmp_path / "run"}

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tracer.trace(system("ddim"), [tracer.arm("other", model=Network())], progress=stop, **settings)
    with pytest.raises(tracer.RunError, match="changes"):
        tracer.trace(system("ddim"), [tracer.arm("other", model=Network(0.7))], resume=True, **settings)


def test_the_fingerprint_of_a_function_holds_its_source_and_what_was_fixed_of_it():
    same = tracer.arm("a", context=every_second), tracer.arm("b", context=every_second)
    other = tracer.arm("a", context=empty)
    fixed = [tracer.arm("a", context=partial(every_second, every=every)) for every in (2, 4)]
    made = [arm.fingerprint(None) for arm in (*same, other, *fixed)]
    assert made[0] == made[1]
    assert len(set(made)) == 4
    assert "every=4" in made[-1]


def test_a_second_network_is_made_once_and_runs_in_its_own_precision(tmp_path):
    made = []

    def lowered(network):
        made.append(network)
        return copy.deepcopy(network).to(torch.float32)

    denoiser = system("ddim")
    run = run_of(tmp_path, denoiser, [tracer.arm("float32", model=lowered)], sampler="ddim", batch_size=1)
    assert made == [denoiser.model]
    error = run["metrics/delta_rel"].isel(arm=1, step=-1)
    assert ((error > 1e-10) & (error < 1e-5)).all()


@pytest.mark.parametrize(
    ("name", "how", "words"),
    [
        ("R4S32", {"context": empty}, "a spec already"),
        ("full", {"context": empty}, "a spec already"),
        ("steps14", {"context": empty}, "a spec already"),
        ("a/b", {"context": empty}, "starts with a letter"),
        ("mine", {}, "nothing here"),
        ("mine", {"context": empty, "model": Network()}, "model and context here"),
    ],
)
def test_what_is_no_arm_is_refused(name, how, words):
    with pytest.raises(SpecError, match=words):
        tracer.arm(name, **how)


def test_what_cannot_be_changed_is_refused():
    denoiser = changing()
    for arm, words in (
        ("steps20", "the run has 12 steps"),
        ("steps12.5", "whole number"),
        ("sampler-flow", "cannot move"),
        ("sampler-dddm", "ddpm"),
    ):
        with pytest.raises((PlanError, tracer.SamplerError, SpecError), match=words):
            plan(Request(denoiser, [arm], steps=12))
    denoiser.model = None
    with pytest.raises(PlanError, match="attribute `model`"):
        plan(Request(denoiser, [tracer.arm("mine", context=empty)], steps=12))


def test_the_seam_refuses_what_acts_around_the_network():
    from interventions import TokenLayout, attend
    from tests.builders import models

    model, layout = models.dit()[:2]
    assert isinstance(layout, TokenLayout)
    with pytest.raises(SpecError, match="around the network's forward"), attend(model, parse("steps3"), layout=layout):
        pass


def test_changes_act_together_from_left_to_right(tmp_path):
    other, held = tracer.arm("other", model=Network(0.8)), tracer.arm("held", context=every_second)
    both = Together((other, held))
    assert str(both) == "other+held"
    assert both.remembers
    run = run_of(tmp_path, system("ddim"), [both, held, other], sampler="ddim")
    assert float(run["metrics/delta_l2"].sel(arm="other+held").isel(step=-1).min()) > 0
    levels, x = levels_of(run), start_of(system("ddim"), "ddim", **ODE)
    answers = {}

    def held_of_the_other(step, x, alpha):
        if step % 2 == 0:
            answers["own"] = x0_of(Network(0.8), x, alpha)
        return answers["own"]

    *_, want = ddim(levels, x, held_of_the_other)
    assert np.abs(final(run, "other+held") - want).max() < 1e-12
