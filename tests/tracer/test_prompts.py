"""Where prompts come from, which of them a run takes, and what a bad source gets."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tracer import prompts
from tracer.prompts import Prompt, PromptError

GENEVAL = Path(__file__).parents[3] / "shared" / "data" / "geneval" / "evaluation_metadata.jsonl"
needs_geneval = pytest.mark.skipif(not GENEVAL.is_file(), reason="GenEval's prompts lie beside the checkout only")


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_a_text_file_is_one_prompt_a_line(tmp_path):
    file = write(tmp_path / "p.txt", "\ufeffa red heart\n\n  flag of japan  \n")
    assert prompts.load(file) == [Prompt("a red heart"), Prompt("flag of japan")]


def test_jsonl_keeps_its_tags_and_takes_them_in_turn(tmp_path):
    rows = [("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"), ("c1", "c"), ("c2", "c")]
    file = write(tmp_path / "p.jsonl", "\n".join(json.dumps({"prompt": p, "tag": t, "include": []}) for p, t in rows))
    found = prompts.load(file)
    assert [p.text for p in found] == ["a1", "b1", "c1", "a2", "c2", "a3"]  # written out by hand
    assert found[1].tag == "b"


@needs_geneval
def test_a_smaller_run_is_the_beginning_of_a_larger_one_and_more_samples_than_prompts_repeat_the_list():
    assert prompts.load(GENEVAL, count=13) == prompts.load(GENEVAL, count=64)[:13]
    all_of_them = prompts.load(GENEVAL)
    assert prompts.load(GENEVAL, count=560)[553:] == all_of_them[:7]


@needs_geneval
def test_sixty_four_geneval_prompts_cover_all_six_categories():
    """The first 64 lines of the file are one category; a stratified subset has 64 / 6 = 10 or 11 of each."""
    assert len(prompts.load(GENEVAL)) == 553
    found = Counter(p.tag for p in prompts.load(GENEVAL, count=64))
    assert sorted(found.values()) == [10, 10, 11, 11, 11, 11]


def test_the_built_in_emoji_prompts_begin_with_one_of_each_class():
    found = prompts.load(None, "sd3")
    assert len(found) >= 64
    assert len({p.text for p in found}) == len(found)
    assert len({p.tag for p in prompts.load(None, "sd3", 12)}) == 12  # one of each class first


def test_a_prompt_may_be_typed():
    assert prompts.load("a red heart", "sd3", 2) == [Prompt("a red heart")] * 2
    assert prompts.load(Path("a red heart"), "sd3", 1) == [Prompt("a red heart")]  # as the command line hands it in
    assert prompts.load(["heart", "flag of japan"]) == [Prompt("heart"), Prompt("flag of japan")]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("p.txt", "\n \n", "holds no prompt"),
        ("p.jsonl", "", "holds no prompt"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": ', "line 2: not valid JSON"),
        ("p.jsonl", '{"prompt": "a"}\n\n["b"]', "line 3: an object"),
        ("p.jsonl", '{"tag": "colors"}', '"prompt" is missing'),
        ("p.jsonl", '{"prompt": "  "}', "missing or empty"),
        ("p.jsonl", '{"prompt": "a", "tag": 3}', '"tag" must be text'),
    ],
)
def test_a_malformed_file_says_where(tmp_path, name, text, says):
    with pytest.raises(PromptError, match=says):
        prompts.load(write(tmp_path / name, text))


def test_other_bad_sources_are_told_apart(tmp_path):
    with pytest.raises(PromptError, match=r"no prompt file 'missing\.txt'"):
        prompts.load("missing.txt")
    with pytest.raises(PromptError, match=r"no prompt file 'my prompts\.jsonl'"):
        prompts.load("my prompts.jsonl")
    with pytest.raises(PromptError, match="is a folder"):
        prompts.load(tmp_path)
    (tmp_path / "p.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PromptError, match="not a UTF-8"):
        prompts.load(tmp_path / "p.txt")
    with pytest.raises(PromptError, match="takes no prompts"):
        prompts.load(None, "dit")
    with pytest.raises(PromptError, match="at least 1"):
        prompts.load("emoji", count=0)
    with pytest.raises(PromptError, match="a prompt is empty"):
        prompts.load(["heart", " "])


def test_both_apostrophes_are_the_same_word():
    from tracer.denoisers.embedded.words import words

    assert words("three o’clock") == words("three o'clock") == ["three", "oclock"]
