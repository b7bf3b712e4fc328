"""Sentences above the viewer: the verdict's own answers, and what was not asked."""

import analysis
from analysis.answer import words
from analysis.viewer import sentences
from analysis.viewer.payload import payload
from tests.builders.replayed import replayed_run
from tests.builders.viewed import viewed
from tests.ground_truth import gaussian


def exact(steps: int, **config):
    """Eight starts of an exact Gaussian system with its replay and own-path sums."""
    clean = gaussian.gaussian_denoiser(1.0)
    return replayed_run(clean, {"R4S32": gaussian.affine_mask(clean, 0.9, 0.1)}, steps=steps, starts=8, **config)


def told(run, *others) -> dict[str, str]:
    document = payload([run, *others])
    return {sentence["label"]: sentence["text"] for sentence in document["runs"][0]["sentences"]}


def test_answers_are_those_of_the_verdict_for_the_primary_mask_at_full_dose():
    run = exact(8)
    found = analysis.verdict(run)
    view = found.isel(cell=0)
    for label, question in (("Feedback", "feedback"), ("Amplification", "along")):
        expected = words.answer(question, view[f"{question}_alone"].item(), view[f"{question}_interval"])
        assert told(run)[label].startswith(f"{view['mask'].item()} at full dose")
        assert expected in told(run)[label]


def test_a_run_without_a_replay_was_not_asked():
    said = told(viewed())
    assert said["Feedback"] == "not asked: it needs the replay: `--record replay`."
    assert said["Amplification"].startswith("not asked: it needs the own-path sum")


def test_one_number_of_steps_does_not_answer_the_third_question_and_several_do():
    short, long = exact(8), exact(16)
    assert told(short)["More steps"].startswith("not asked: it needs runs of several numbers of steps")
    joint = analysis.verdict([short, long]).isel(cell=0)
    assert words.quoted(joint["steps_interval"]) in told(short, long)["More steps"]


def test_runs_that_differ_in_more_than_steps_answer_each_for_itself():
    one, other = exact(8), exact(16, model="another")
    assert not sentences.same_experiment([one, other])
    assert told(one, other)["More steps"].startswith("not asked")


def test_a_mask_that_was_not_fixed_beforehand_says_so():
    run = exact(8)
    found = analysis.verdict(run, primary="")
    assert "(not the mask fixed beforehand)" in sentences.answers(found)["feedback"]


def test_without_an_arm_of_the_whole_run_the_reason_is_the_verdicts():
    run = viewed(masks={"R4S32@steps=0:3": {"window": range(3)}})
    assert told(run)["Feedback"].startswith("not asked: no arm acts over the whole run")


def test_answers_may_be_left_out():
    document = payload(viewed(), answers=False)
    labels = [sentence["label"] for sentence in document["runs"][0]["sentences"]]
    assert labels == ["What was run", "What this run cannot show"]
