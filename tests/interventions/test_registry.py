"""Claims about registries: what ships comes first and cannot be taken over, and nothing is imported unasked."""

import subprocess
import sys
from pathlib import Path

import pytest

from interventions import InputError, Registry
from tests.plugins import installed

SHIPPED = {"square root": "math:sqrt", "sine": "math:sin"}


def write_distribution(folder, name, lines, modules):
    """Write a distribution with these entry points of the group denoise_trace.functions, and its modules."""
    info = folder / f"{name}-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text("\n".join(["[denoise_trace.functions]", *lines]) + "\n")
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)


def test_items_come_in_order_and_are_found_by_name():
    registry = Registry("function", SHIPPED)
    own = registry.register("own", max)
    assert own is max
    assert list(registry) == ["square root", "sine", "own"]
    assert len(registry) == 3
    assert registry.built_in == ("square root", "sine")
    assert registry["square root"](9) == 3
    assert list(registry) == ["square root", "sine", "own"]  # also after one was imported
    assert "own" in registry
    assert "cosine" not in registry
    with pytest.raises(KeyError):
        registry["cosine"]


def test_a_wrong_name_is_answered_with_the_names_and_the_nearest():
    with pytest.raises(InputError, match=r"'sign': did you mean sine\? choose one of square root, sine$"):
        Registry("function", SHIPPED).get_or_raise("sign")
    with pytest.raises(LookupError, match="unknown function 'q'"):
        Registry("function", SHIPPED).get_or_raise("q", LookupError)


def test_what_ships_cannot_be_taken_over():
    registry = Registry("function", SHIPPED)
    with pytest.raises(InputError, match="there is a function 'sine' already"):
        registry.register("sine", max)
    registry.register("own", max)
    registry.register("own", max)  # the same again does no harm
    with pytest.raises(InputError, match="choose another name"):
        registry.register("own", min)


def test_another_distribution_adds_by_entry_point_and_takes_nothing_over(tmp_path):
    lines = ["twice = doubles:twice", "sine = doubles:twice", "again = doubles:again"]
    text = "def twice(x):\n    return 2 * x\n\n\ndef again(x):\n    return x\n"
    write_distribution(tmp_path, "doubles", lines, {"doubles": text})
    with installed(folder=tmp_path):
        registry = Registry("function", SHIPPED)
        assert list(registry) == ["square root", "sine", "again", "twice"]  # of others by name
        assert "doubles" not in sys.modules  # listing imports nothing
        assert registry["twice"](4) == 8
        assert registry["sine"](0) == 0


def test_an_entry_point_that_cannot_be_imported_names_its_distribution(tmp_path):
    write_distribution(tmp_path, "half", ["half = half_done:half"], {"half_done": "import not_there\n"})
    with installed(folder=tmp_path):
        registry = Registry("function", SHIPPED)
        with pytest.raises(InputError, match=r"the function 'half' of half 1\.5 cannot be loaded from half_done:half"):
            registry["half"]


def test_the_group_is_the_plural_unless_another_is_named():
    assert Registry("sampler", {}).group == "denoise_trace.samplers"
    assert Registry("family", {}, group="denoise_trace.families").group == "denoise_trace.families"


def test_what_ships_is_read_without_looking_for_other_distributions():
    code = (
        "import sys, interventions; [interventions.parse(s) for s in ('R4S32', 'sink-k5', 'clean', 'full')]; "
        "print(interventions.FAMILIES._entry_points)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True
    )
    assert done.stdout.strip() == "None"
