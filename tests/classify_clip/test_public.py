"""The public face: what `classify_clip` offers, with real signatures, and without torch until something is used."""

import inspect
import subprocess
import sys

import pytest

import classify_clip

FUNCTIONS = {
    "classify": ("masks", "densities", "families", "mask_seeds", "model", "checkpoint", "data"),
    "retrieve": ("masks", "densities", "families", "mask_seeds", "model", "pretrained", "checkpoint", "data"),
    "denoise": ("masks", "densities", "families", "mask_seeds", "timesteps"),
    "depth": ("masks", "mask_seed", "samples"),
    "locality": ("stack", "images", "masks"),
    "score": ("run", "metrics", "weights", "reference", "device", "progress"),
    "score_runs": ("runs", "out"),
    "load_classifier": ("name", "checkpoint", "device"),
    "load_retriever": ("name", "pretrained", "checkpoint", "device"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_show_their_parameters_and_explain_themselves(name):
    function = getattr(classify_clip, name)
    assert tuple(inspect.signature(function).parameters)[: len(FUNCTIONS[name])] == FUNCTIONS[name]
    assert len(inspect.getdoc(function)) > 40


def test_names_are_what_dir_shows_and_importing_a_file_of_a_room_hides_none():
    import classify_clip.scores.scoring

    assert set(FUNCTIONS) < set(classify_clip.__all__)
    assert set(classify_clip.__all__) <= set(dir(classify_clip))
    for name in classify_clip.__all__:
        assert not inspect.ismodule(getattr(classify_clip, name)), name


def test_errors_are_input_errors_of_the_program():
    from interventions.errors import InputError

    for name in ("DataError", "ModelError", "ScoreError"):
        assert issubclass(getattr(classify_clip, name), InputError)


def test_importing_the_package_and_listing_metrics_imports_no_torch():
    code = "import sys, classify_clip; list(classify_clip.METRICS); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_opening_every_metric_imports_no_torch_before_it_is_measured():
    code = "import sys, classify_clip; list(classify_clip.METRICS.values()); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
