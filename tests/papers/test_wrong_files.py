"""What is missing or another file than it should be, at paper scale: one message each, before anything is written."""

from __future__ import annotations

import json
import pickle
import shutil

import pytest

from classify_clip.models import PAPER_CLASSIFIER
from classify_clip.scores import ScoreError, fid
from tests.builders.typed import trace
from tests.papers import networks
from tests.papers.everything import Everything

SWEEP = ("--limit", 8, "--device", "cpu", "--dry-run")


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    with networks.tiny_architectures():
        yield Everything(tmp_path_factory.mktemp("papers"))


def refused(*words):
    """The last line that is said, and nothing but usage before it."""
    done = trace(*words)
    assert done.exit_code == 2, done.output
    return done.output.strip().splitlines()[-1]


def run(checkpoint, there):
    return "run", "--checkpoint", checkpoint, "--prompts", there.path("prompts"), "--mask", "R4S0", "--dry-run"


def test_a_checkpoint_without_its_t5_is_not_taken_for_one_that_never_had_it(there, tmp_path):
    folder = shutil.copytree(there.path("sd3"), tmp_path / "sd3")
    shutil.rmtree(folder / "text_encoder_3")
    said = refused(*run(folder, there))
    assert "names text_encoder_3, missing in" in said
    assert "--no-t5" in said


@pytest.mark.parametrize("name", ["DiT-XL-2-256x256.pt", "sd3_medium.safetensors"])
def test_weights_in_one_file_are_no_pipeline(there, tmp_path, name):
    (tmp_path / name).write_bytes(b"weights")
    assert "is one file: give the folder" in refused(*run(tmp_path / name, there))


def test_cocos_instances_are_no_captions(there, tmp_path):
    content = json.loads(there.path("captions").read_text())
    notes = [{"id": note["id"], "image_id": note["image_id"], "bbox": []} for note in content["annotations"]]
    file = tmp_path / "instances_val2017.json"
    file.write_text(json.dumps(content | {"annotations": notes}))
    words = ("sweep", "retrieve", "--mask", "R1S8", "--data", there.path("coco"), "--captions", file, *SWEEP)
    assert "annotations without a caption" in refused(*words)


def test_weights_that_cannot_be_fetched_are_one_message(there, capfd):
    said = trace("sweep", "retrieve", "--model", networks.CLIPS[0], "--mask", "R1S8", *SWEEP)
    assert "give --checkpoint FOLDER" in said.output.strip().splitlines()[-1]
    assert "hub" not in capfd.readouterr().err  # open_clip says so too, to the root logger


def test_imagenet_as_it_is_given_out_needs_its_folders(there, tmp_path):
    for k, file in enumerate(sorted(there.path("imagenet").rglob("*.JPEG"))[:3]):
        shutil.copy(file, tmp_path / f"ILSVRC2012_val_{k:08d}.JPEG")
    words = ("sweep", "classify", "--model", PAPER_CLASSIFIER, "--checkpoint", there.path("vit"), "--mask", "R4S16")
    said = refused(*words, "--data", tmp_path, *SWEEP)
    assert "it holds 3 images but no class folders" in said


class Runs:
    def __reduce__(self):
        return print, ("this ran",)


def test_a_pickle_for_fid_is_not_run(tmp_path, capsys):
    """torch-fidelity loads any pickle, and what a pickle says is run."""
    pytest.importorskip("torch_fidelity")
    file = tmp_path / fid.SOURCE.file
    file.write_bytes(pickle.dumps(Runs()))
    with pytest.raises(ScoreError, match="does not load"):
        fid.load(file, "cpu")
    assert "this ran" not in capsys.readouterr().out
