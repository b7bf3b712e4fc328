"""ImageNet and COCO layouts in their real formats, the shipped images, and what wrong input is answered."""

import json

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from classify_clip import data
from tests.builders import small


def test_an_image_folder_is_read_as_torchvision_reads_it(tmp_path):
    root = small.imagenet(tmp_path / "val")
    found, known = data.image_folder(root), ImageFolder(root)
    assert list(found.classes) == known.classes
    assert [(str(root / name), label) for name, label in zip(found.names, found.label, strict=True)] == known.samples
    assert np.array_equal(np.asarray(found.read(4)), np.asarray(known[4][0]))


def test_a_subset_of_wnids_takes_the_models_own_indices(tmp_path):
    root = small.imagenet(tmp_path / "val", classes=("n01440764", "n01484850", "n01443537"))
    labels = [f"n{i:08d}" for i in range(3)] + ["n01440764", "n01443537", "n01484850"]
    found = data.match_classes(data.image_folder(root), 6, labels)
    assert np.unique(found.label).tolist() == [3, 4, 5]  # sorted folder names, looked up in the labels
    assert found.classes[found.label[0]] == "n01440764"


def test_coco_captions_belong_to_their_picture_whatever_the_order_of_the_file(tmp_path):
    captions, folder = small.coco(tmp_path, images=4, each=3)
    found = data.coco_captions(captions, folder)
    assert len(found.images) == 4
    assert len(found.texts) == 12
    for text, group in zip(found.texts, found.text_group, strict=True):
        number = int(text.split()[1])  # the caption says which picture it was written for
        assert found.images.names[group] == f"{1000 + number:012d}.jpg"
    assert len(data.coco_captions(captions, folder, captions_per_image=1).texts) == 4


def test_a_karpathy_file_gives_its_test_split_with_five_captions_each(tmp_path):
    captions, folder = small.karpathy(tmp_path, images=3)
    found = data.coco_captions(captions, folder.parent)  # names carry val2014/
    assert (len(found.images), len(found.texts)) == (3, 15)
    assert data.coco_captions(captions, folder).texts == found.texts  # the folder itself is found too


def test_head_keeps_whole_groups_and_spreads_over_the_classes(tmp_path):
    captions, folder = small.coco(tmp_path, images=4, each=2)
    kept = data.coco_captions(captions, folder).head(2)
    assert (len(kept.images), len(kept.texts)) == (2, 4)
    assert set(kept.text_group) == set(kept.image_group)
    images = data.image_folder(small.imagenet(tmp_path / "val", each=4)).head(5)
    assert np.unique(images.label).tolist() == [0, 1, 2, 3, 4]
    assert images.names[1].startswith("bee")


def test_the_shipped_images_are_the_two_held_out_splits():
    both, one = data.held_out(), data.held_out("held-out-concepts")
    assert both.pixels.shape == (1002, 32, 32, 3)
    assert len(one.label) == 513
    assert len(both.classes) == 12
    unseen = set(both.concept[both.split == "held-out-concepts"])
    assert not unseen & set(both.concept[both.split == "held-out-images"])
    pairs = both.pairs()
    for image in (0, 500, 1001):
        assert pairs.texts[pairs.image_group[image]] == both.caption[image]


def broken_captions(content):
    def write(root):
        captions, folder = small.coco(root)
        captions.write_text(content if isinstance(content, str) else json.dumps(content))
        return captions, folder

    return write


WRONG_CAPTIONS = {
    "no captions file": lambda root: (root / "nothing.json", root),
    "no folder": lambda root: (small.coco(root)[0], root / "nowhere"),
    "is not JSON": broken_captions("{"),
    "neither COCO captions": broken_captions({"images": []}),
    "names no images": broken_captions({"images": [], "annotations": []}),
    "has no caption": broken_captions({"images": [{"id": 1000, "file_name": f"{1000:012d}.jpg"}], "annotations": []}),
    "which the file does not list": broken_captions(
        {"images": [{"id": 1, "file_name": "x.jpg"}], "annotations": [{"id": 5, "image_id": 2, "caption": "a"}]}
    ),
    "1 of 1 pictures named": broken_captions(
        {"images": [{"id": 1, "file_name": "x.jpg"}], "annotations": [{"id": 5, "image_id": 1, "caption": "a"}]}
    ),
}


@pytest.mark.parametrize("said", WRONG_CAPTIONS)
def test_wrong_captions_are_explained(tmp_path, said):
    captions, folder = WRONG_CAPTIONS[said](tmp_path)
    with pytest.raises(data.DataError, match=said):
        data.coco_captions(captions, folder)


def test_wrong_folders_are_explained(tmp_path):
    with pytest.raises(data.DataError, match="no folder"):
        data.image_folder(tmp_path / "nowhere")
    with pytest.raises(data.DataError, match="no class folders: it is empty"):
        data.image_folder(tmp_path)
    small.picture(0).save(tmp_path / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(data.DataError, match="it holds 1 images but no class folders"):
        data.image_folder(tmp_path)
    (tmp_path / "n01440764").mkdir()
    with pytest.raises(data.DataError, match="holds no images"):
        data.image_folder(tmp_path)
    five = data.image_folder(small.imagenet(tmp_path / "val"))
    with pytest.raises(data.DataError, match=r"has 5 classes, the model has 12.*such as 'face'"):
        data.match_classes(five, 12, ["face"])
    with pytest.raises(data.DataError, match="no held-out split 'train'"):
        data.held_out("train")
