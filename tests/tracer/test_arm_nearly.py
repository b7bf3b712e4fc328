"""What people type for NAME=module:attribute, and what they are told."""

import pytest

from interventions import SpecError
from tracer.arm import nearly, typed_arm


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("my_arms:cache", "cache=my_arms:cache"),
        ("mine=my_arms.cache", "mine=my_arms:cache"),
        ("mine=my_arms.py:cache@steps=0:2", "mine=my_arms:cache@steps=0:2"),
        ("mine=folder/my_arms.py:cache", "mine=folder.my_arms:cache"),
    ],
)
def test_near_misses_are_answered_with_what_was_meant(typed, meant):
    assert nearly(typed) == meant
    with pytest.raises(SpecError, match=f"for example {meant}|cannot be imported|there is no module"):
        typed_arm(typed)


@pytest.mark.parametrize("spec", ["R4S32", "D0.25A1", "tome0.5", "full@steps=0.8:1.0", "sink-k5@layers=1,2;steps=0:5"])
def test_a_spec_is_none_of_them(spec):
    assert nearly(spec) == ""
    assert typed_arm(spec) is None


def test_a_module_of_the_folder_is_suggested_and_a_broken_one_says_why(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "near_arms.py").write_text("import nothing_of_this_name\n")
    with pytest.raises(SpecError, match=r"no module 'near_arm'.*did you mean near_arms"):
        typed_arm("mine=near_arm:cache")
    with pytest.raises(SpecError, match=r"near_arms cannot be imported: ModuleNotFoundError.*nothing_of_this_name"):
        typed_arm("mine=near_arms:cache")
