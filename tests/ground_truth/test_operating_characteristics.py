"""The operating characteristics of the verdict: what counts as right and as false, and that the benchmark runs."""

import math

import pytest

from benchmarks import operating_characteristics as benchmark


@pytest.mark.parametrize(
    ("question", "value", "label"),
    [
        ("feedback", math.log(1.30), "amplifying"),
        ("feedback", math.log(1.20), "none"),
        ("feedback", math.log(0.70), "damping"),
        ("along", 0.0, "additive"),
        ("along", math.log(1.252), "undecided"),  # on the margin
        ("along", -math.log(1.252), "undecided"),
        ("steps_answer", 0.15, "grows"),
        ("steps_answer", 0.05, "flat"),
        ("steps_answer", -0.15, "shrinks"),
    ],
)
def test_what_is_right_follows_from_the_value_and_the_margin(question, value, label):
    assert benchmark.right(question, value) == label


def test_false_answers_are_those_that_are_given_and_not_right():
    record = {"question": "along", "right": "additive", "shares": {"additive": 0.7, "amplified": 0.2, "undecided": 0.1}}
    assert [benchmark.false_share(record, kind) for kind in range(3)] == [0.2, 0.0, 0.0]


def test_studies_share_no_start_and_are_judged_like_a_verdict(tmp_path, capsys):
    system = benchmark.EXACT_SYSTEMS[0]
    study = benchmark.Study(system, 64)
    records = benchmark.characteristics(study, (16, 24, 64), 3, tmp_path)
    assert [(r["question"], r["n"], r["studies"]) for r in records] == [
        (question, n, most) for n, most in ((16, 3), (24, 2), (64, 1)) for question in ("feedback", "along")
    ]
    assert all(r["shares"] == {r["right"]: 1.0} for r in records)  # a constant shift: none, additive
    text = benchmark.table_of(records)
    assert "| bimodal, shift .03; 50 steps | feedback | 1.000 | none | none 1.00 (3) | none 1.00 (2) |" in text
