"""The benchmarks run, their baseline is the attention it stands for, and their oracle notices a kernel that is off; the
comparison of versions notices a number that moved.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zarr

import tracer
from benchmarks import compare_versions, damage, faults, gpu
from benchmarks.measure import compare
from benchmarks.models import NaiveAttention, sd3
from benchmarks.runs import sd3_case
from tracer.denoisers import Sample
from tracer.noise import sample_noise
from tracer.samplers import SAMPLERS, noise_levels


@pytest.mark.parametrize("masked", [False, True])
def test_naive_attention_is_the_fused_one_with_its_matrix_held(masked):
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 2, 9, 4, dtype=torch.float64).unbind()
    allowed = (torch.rand(9, 9) < 0.5) | torch.eye(9, dtype=torch.bool)
    naive = NaiveAttention(allowed if masked else None, mass=True)
    with naive:
        got = F.scaled_dot_product_attention(query, key, value)
    want = F.scaled_dot_product_attention(query, key, value, allowed if masked else None)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)  # its softmax is made in float32
    assert naive.masses[0].sum(-1) == pytest.approx(1, abs=1e-5)


def test_the_oracle_notices_a_mass_that_is_off(monkeypatch):
    exact = gpu.attention_statistics
    monkeypatch.setattr(gpu, "attention_statistics", lambda *args: (exact(*args)[0] * 1.001, exact(*args)[1]))
    assert not any(error.good for error in gpu.errors(torch.device("cpu"), smoke=True))
    monkeypatch.undo()
    assert all(error.good for error in gpu.errors(torch.device("cpu"), smoke=True))


def test_gpu_benchmark_runs_on_a_cpu_in_smoke_mode(tmp_path, capsys):
    out = tmp_path / "gpu.json"
    assert gpu.main(["--smoke", "--only", "correctness", "--only", "sd3", "--out", str(out)]) == 0
    content = json.loads(out.read_text())
    assert content["smoke"] is True
    assert list(content["groups"]) == ["correctness", "sd3"]
    assert {row["baseline"] for row in content["groups"]["sd3"]} == {"stock"}
    assert next(row for row in content["groups"]["sd3"] if row["work"] == "stock")["ratio"] == 1
    assert "naive attention, masked, mass recorded" in capsys.readouterr().out


@pytest.mark.parametrize("group", ["dit-run", "sd3-run"])
def test_whole_recorded_runs_are_compared_with_as_many_bare_loops_as_lanes(group, tmp_path, capsys):
    out = tmp_path / "gpu.json"
    assert gpu.main(["--smoke", "--only", group, "--out", str(out)]) == 0
    bare, *recorded = json.loads(out.read_text())["groups"][group]
    assert [row["lanes"] for row in recorded] == [1, 1, 2]
    for row in recorded:
        assert row["ratio"] == pytest.approx(row["milliseconds"] / bare["milliseconds"] / row["lanes"])
        assert row["whole_ratio"] > row["ratio"] or row["fixed_seconds"] <= 0
    assert "bare loop" in capsys.readouterr().out


def test_the_bare_loop_takes_the_steps_that_a_recorded_run_takes(tmp_path):
    """From the same noise and conditions both end in the same state."""
    subject = sd3(torch.device("cpu"), torch.float32, tiny=True)
    case = sd3_case(subject, 2, 4, 4)
    samples = [Sample(0, 0, prompt="a prompt"), Sample(1, 1, prompt="a prompt")]
    x = sample_noise(samples, -1, case.denoiser.shape, torch.empty(0))
    given, pooled = case.denoiser.conditions.batch(["", "", "a prompt", "a prompt"], torch.device("cpu"), torch.float32)
    case = replace(case, bare=sd3_case(replace(subject, inputs=lambda rows: subject.inputs(rows) | {
        "encoder_hidden_states": given, "pooled_projections": pooled}), 2, 4, 4).bare)  # fmt: skip
    tracer.trace(case.denoiser, [], floor=False, samples=2, steps=4, batch_size=2, out=tmp_path / "run", **case.options)
    levels = noise_levels(SAMPLERS["flow"], 4, "flow", case.denoiser.scheduler)
    with torch.no_grad():
        for i in range(4):
            x = case.bare(x, i, levels)
    latent = tracer.open_run(tmp_path / "run")["trajectory/latent"].values
    assert np.allclose(latent[:, -1], x.numpy(), atol=1e-5)


def test_work_that_runs_out_of_memory_is_reported_and_the_rest_goes_on():
    from contextlib import contextmanager

    @contextmanager
    def fits():
        yield lambda: None

    @contextmanager
    def too_big():
        def work():
            raise torch.OutOfMemoryError

        yield work

    rows = compare("group", {"small": fits, "big": too_big}, "small", torch.device("cpu"), rounds=2, calls=1)
    assert rows[0].ratio == 1
    assert rows[1].ratio is None
    assert rows[1].note == "out of memory"


@pytest.fixture
def sides(tmp_path):
    """Two folders as two versions leave them, equal but for what a version may change."""
    for side, second in (("old", 5), ("new", 61)):
        folder = tmp_path / side
        for name in ("text", "tables", "runs/a"):
            (folder / name).mkdir(parents=True)
        np.savez(folder / "grammar.npz", mask=np.eye(3, dtype=bool))
        root = zarr.open_group(folder / "runs/a/trace.zarr", mode="w", attributes={"config": json.dumps({"steps": 6})})
        root.create_array("metrics/delta", data=np.array([0.25, np.nan, 3], np.float32))
        (folder / "tables/sinks.csv").write_text("arm,A\nR4S32,1.25\n")
        (folder / "tables/growth.csv").write_text("arm,A\nR4S32,1.25\n")
        (folder / "text/run.txt").write_text(
            f"error 0.25 of 3\noutput  runs/a: at most 3 MB, about {second} s on cpu\nexit 0\n"
        )
        (folder / "tables/page.html").write_text(f"<style>p {{}}</style><p>1.25 at 2026-01-0{second % 9}T10:00:00</p>")
    return tmp_path / "old", tmp_path / "new"


def compared(sides, capsys):
    """Exit status and the lines about what is not equal."""
    status = compare_versions.show(list(compare_versions.compare_sides(*sides)), verbose=False)
    return status, capsys.readouterr().out.splitlines()[:-1]


def test_times_and_dates_are_no_difference(sides, capsys):
    assert compared(sides, capsys) == (0, [])


def test_a_number_that_moved_is_an_error_with_its_size(sides, capsys):
    root = zarr.open_group(sides[1] / "runs/a/trace.zarr", mode="r+")
    root["metrics/delta"][0] = 0.5
    status, [line] = compared(sides, capsys)
    assert status == 1
    assert "ERROR differs  runs/a/trace.zarr/metrics/delta" in line
    assert "1 of 3 values, by at most 0.5 relative" in line  # |0.25 - 0.5| / 0.5


@pytest.mark.parametrize("value", ["nan", "inf", "-0.25", "0.25000003"])
def test_any_other_bit_is_noticed(value):
    old, new = np.array([0.25], np.float32), np.array([value], np.float32)
    assert compare_versions.compare_arrays("item", old, new).state == "differs"


@pytest.mark.parametrize(("file", "status"), [("growth", 0), ("sinks", 1)])
def test_rounding_is_allowed_only_where_it_is_named(sides, capsys, file, status):
    (sides[1] / f"tables/{file}.csv").write_text("arm,A\nR4S32,1.2500000000000002\n")
    answer, [line] = compared(sides, capsys)
    assert answer == status
    assert f"tables/{file}.csv/A" in line
    (sides[1] / f"tables/{file}.csv").write_text("arm,A\nR4S32,1.2501\n")
    assert compared(sides, capsys)[0] == 1


@pytest.mark.parametrize(("run", "status"), [("few", 0), ("many", 1)])
def test_limits_of_few_samples_may_jump_and_of_many_may_not(sides, capsys, run, status):
    for side, low in zip(sides, ("1.0", "1.05"), strict=True):
        (side / "runs" / run).mkdir()
        (side / "runs" / run / "bands.csv").write_text(f"arm,A,A low\nR4S32,1.25,{low}\n")
    assert compared(sides, capsys)[0] == status
    (sides[1] / "runs" / run / "bands.csv").write_text("arm,A,A low\nR4S32,1.26,1.0\n")
    assert compared(sides, capsys)[0] == 1


@pytest.mark.parametrize(
    ("text", "state", "status"),
    [
        ("error 0.25\noutput runs/a: at most 9 MB, about 1 s on cpu\nexit 0\n", "differs", 1),  # a number is gone
        ("error 0.26 of 3\noutput runs/a: at most 9 MB, about 1 s on cpu\nexit 0\n", "differs", 1),
        ("the error is 0.25 of 3\noutput: at most 9 MB, about 1 s on cpu\nexit 0\n", "reworded", 0),
        ("error 0.25 of 3\n7 more\noutput runs/a: at most 9 MB, about 1 s on cpu\nexit 0\n", "extended", 0),
    ],
)
def test_words_may_change_and_numbers_may_not(sides, capsys, text, state, status):
    (sides[1] / "text/run.txt").write_text(text)
    answer, [line, *_] = compared(sides, capsys)
    assert (answer, state in line) == (status, True)


def test_what_is_missing_is_an_error_and_what_was_added_is_not(sides, capsys):
    (sides[1] / "tables/sinks.csv").write_text("arm,A,extra\nR4S32,1.25,1\n")
    assert compared(sides, capsys)[0] == 0
    (sides[1] / "tables/sinks.csv").unlink()
    assert compared(sides, capsys) == (1, ["ERROR missing  tables/sinks.csv"])


def test_the_table_of_faults_counts_what_was_tried(tmp_path, monkeypatch):
    names, kinds = ("values (float): replaced", "mask: deleted", "list of shards: deleted"), {}
    for layout in (damage.OURS, damage.PLAIN):
        chosen = {name: act for name, act in damage.damages(layout).items() if name in names}
        kinds[layout.folder] = chosen
    monkeypatch.setattr(faults, "damages", lambda layout: kinds[layout.folder])
    tried = list(faults.rows(damage.make(tmp_path)))
    assert [(row.name, row.ours, row.found, row.after, row.plain) for row in tried] == [
        ("values (float): replaced", faults.REFUSED, True, faults.AGAIN, faults.WRONG),
        ("mask: deleted", faults.REFUSED, True, faults.RESTORED, faults.WRONG),
        ("list of shards: deleted", faults.MASKED, True, faults.RESTORED, ""),
    ]
    assert faults.short_table(tried)[-1] == "| all | 3 | 2 | 1 | 0 | 0 | 3 | 2 | 1 | 0 | 0 | 0 | 0 | 2 |"
    assert len(faults.long_table(tried)) == 2 + 3
