"""Two arms compared by their final errors, against a plain loop."""

import numpy as np
import pytest

import analysis
from analysis.common.runs import RunError
from tests.builders.replayed import replayed_run
from tests.ground_truth import gaussian

CLEAN = gaussian.gaussian_denoiser(np.ones((1, 8, 8)))
ARMS = {name: gaussian.affine_mask(CLEAN, shift=shift) for name, shift in (("R4S32", 0.02), ("K8", 0.05), ("K4", 0.1))}


def test_the_ratio_is_the_geometric_mean_over_starts_of_both_errors():
    run = replayed_run(CLEAN, ARMS, starts=4, paths=2, steps=10)
    table = analysis.against.table(analysis.against(run, ["K8"]))
    assert table["than"].unique().tolist() == ["K8"]
    for error, path in (("total", "trajectory/final_delta"), ("systematic", "decomposition/own_sum")):
        size = {arm: np.linalg.norm(run[path].sel(arm=arm).values.reshape(8, -1), axis=1) for arm in ARMS}
        for arm in ("R4S32", "K4"):
            row = table[(table["error"] == error) & (table["arm"] == arm)].iloc[0]
            np.testing.assert_allclose(row["estimate"], np.exp(np.log(size[arm] / size["K8"]).mean()), rtol=1e-10)
            assert row["smaller in"] == (size[arm] < size["K8"]).mean()


def test_without_names_every_pair_is_there_once():
    run = replayed_run(CLEAN, ARMS, starts=4, steps=10)
    table = analysis.against.table(analysis.against(run)).query("error == 'total'")
    assert list(zip(table["arm"], table["than"], strict=True)) == [("R4S32", "K8"), ("R4S32", "K4"), ("K8", "K4")]


def test_a_name_that_is_no_arm_is_refused_with_those_that_are():
    run = replayed_run(CLEAN, ARMS, starts=4, steps=10)
    with pytest.raises(RunError, match=r"--than K5: no arm of this run.*R4S32"):
        analysis.against(run, ["K5"])
    with pytest.raises(RunError, match="fewer than two"):
        analysis.against(replayed_run(CLEAN, {"K8": ARMS["K8"]}, starts=4, steps=10))
