"""What a denoiser finds out of its pipeline once holds for all its runs."""

import tracer
from tests.zoo import ZOO


def test_lanes_are_tried_together_when_there_are_some_to_join(tmp_path):
    """Z-Image takes its states as a list, which cannot be joined; a run of one arm has no lanes to find it out with."""
    pipeline, call = ZOO["z-image"].make()
    denoiser = tracer.from_pipeline(pipeline, **call)
    how = {"samples": 1, "record": "latents", "progress": False}
    tracer.trace(denoiser, ["R1S0"], out=tmp_path / "one", floor=False, **how)
    assert denoiser.lanes.why == "not tried"
    tracer.trace(denoiser, ["R1S0", "R2S0"], out=tmp_path / "three", **how)
    assert denoiser.lanes.together is False
    assert "refused" in denoiser.lanes.why
