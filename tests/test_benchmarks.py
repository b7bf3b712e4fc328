"""The benchmarks run, their baseline is the attention it stands for, and their oracle notices a kernel that is off; the
comparison of versions notices a number that moved.
"""

import json
import re
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zarr

import tracer
from benchmarks import __main__ as table
from benchmarks import compare_versions, damage, faults, gpu
from benchmarks.bare import bare_predict, bare_step, drawn
from benchmarks.measure import Row as Comparison
from benchmarks.measure import compare
from benchmarks.models import NaiveAttention
from benchmarks.processes import ROOT, launch
from benchmarks.rows import ROWS, Row
from benchmarks.rows.cases import case as small_case
from benchmarks.rows.start import first_commands
from benchmarks.rows.stores import RECORD, time_queries
from benchmarks.runs import Rounds
from benchmarks.stores import make_store
from benchmarks.table import Settings, line, slope
from tracer.noise import sample_noise
from tracer.run import complete, prepare


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
    _, *recorded = json.loads(out.read_text())["groups"][group]
    assert [row["evaluations"] for row in recorded] == [1, 1, 2]
    for row in recorded:
        assert row["whole_ratio"] > row["ratio"] or row["fixed_seconds"] <= 0
    assert "bare loop" in capsys.readouterr().out


def test_a_kernel_over_its_limit_and_a_group_that_fails_are_exit_1(tmp_path, monkeypatch, capsys):
    """The other groups go on, and what was measured is saved; the smoke mode holds no limits, so it is left."""
    row = Comparison(
        "attention alone: SD3, 2 rows", "mass, log-sum-exp known", "fused attention", 0.4, 0.61, 0.6, 0.62, 0, 0
    )
    options = gpu.parsed(["--smoke", "--only", "tiles", "--only", "mass", "--out", str(tmp_path / "gpu.json")])
    options.smoke = False
    monkeypatch.setattr(gpu, "parsed", lambda arguments: options)
    monkeypatch.setattr(gpu, "measure", lambda group, *_: [row] if group == "mass" else 1 / 0)
    assert gpu.main() == 1
    assert json.loads((tmp_path / "gpu.json").read_text())["limits"][0]["met"] is False
    assert "NOT MET mass / fused attention, SD3's size\ntiles failed" in capsys.readouterr().out


def test_groups_that_would_not_end_in_time_are_skipped_and_said_so(capsys):
    assert gpu.main(["--smoke", "--minutes", "-1", "--only", "flux"]) == 0
    assert "flux skipped" in capsys.readouterr().out


@pytest.mark.parametrize("family", ["dit", "sd3"])
@pytest.mark.parametrize("arms", [[], ["R4S32"]])
def test_the_bare_loop_ends_in_the_state_of_the_traced_clean_lane(family, arms, tmp_path):
    """So baseline and trace compute the same: bit for bit. With an arm the batch has twice the rows, and the stock
    network itself then differs by 1e-6 (measured), which four steps may carry on.
    """
    case = small_case(family, Settings(), steps=4, samples=2)
    plan = case.plan(arms, ("latents",))
    complete(plan, prepare(plan, tmp_path / "run"))
    like = torch.empty(0)
    x, predict = sample_noise(plan.samples, -1, case.denoiser.shape, like), bare_predict(plan, plan.samples)
    with torch.no_grad():
        for i in range(case.steps):
            own = drawn(plan, x, i)
            noise = None if own is None else sample_noise(plan.samples, i, own.shape[1:], like)
            x = bare_step(plan, predict, x, i, noise)
    latent = tracer.open_run(tmp_path / "run")["trajectory/latent"].values
    if arms:
        assert np.abs(latent[:, -1] - x.numpy()).max() < 1e-4
    else:
        assert np.array_equal(latent[:, -1], x.numpy())


def lines_of(values):
    """A row of lines with these medians, unit and limit 1; an exception in their place is raised."""

    def measure(settings):
        for value in values:
            if isinstance(value, BaseException):
                raise value
            yield line(f"work {value}", [value], 1.0)

    return Row("a row", measure)


@pytest.mark.parametrize(
    ("values", "status", "says"),
    [((0.5, 1.0), 0, "2 of 2 limits met"), ((0.5, 1.001), 1, "one: work 1.001"), ((ValueError(),), 1, "one: failed")],
)
def test_a_row_over_its_limit_or_one_that_fails_is_exit_1(values, status, says, monkeypatch, capsys):
    monkeypatch.setattr(table, "ROWS", {"one": lines_of(values), "never": lines_of([9])})
    assert table.main(["--only", "one"]) == status
    assert says in capsys.readouterr().out


def test_a_line_is_saved_when_it_is_measured(tmp_path, monkeypatch):
    """What comes before a stop is there, as JSON and as a page."""
    monkeypatch.setattr(table, "ROWS", {"one": lines_of([0.5, 2.0, KeyboardInterrupt()])})
    files = {"--out": tmp_path / "table.json", "--markdown": tmp_path / "table.md"}
    with pytest.raises(KeyboardInterrupt):
        table.main([str(word) for pair in files.items() for word in pair])
    content = json.loads(files["--out"].read_text())
    assert [(each["median"], each["met"]) for each in content["rows"]["one"]] == [(0.5, True), (2.0, False)]
    page = files["--markdown"].read_text()
    assert f"torch {torch.__version__}" in page
    assert "| one | work 2.0 | 2.000 x |  | 1.000 x | NOT MET |" in page
    assert "1 of 2 limits met" in page


def test_an_unknown_row_is_answered_with_those_there_are(capsys):
    with pytest.raises(SystemExit, match="2"):
        table.main(["--only", "mass-dti"])
    assert "no such row; choose among mass-dit, mass-sd3" in capsys.readouterr().err


SMALL = ("mass-dit", "plain-sd3", "blocks", "kernel", "sink-arms", "impulses", "floor", "scaling", "leak", "seam")
"""Rows that start no process of their own."""


def test_the_table_is_measured_on_tiny_networks(tmp_path):
    out = tmp_path / "table.json"
    assert table.main(["--smoke", "--only", ",".join(SMALL), "--out", str(out), "--root", str(tmp_path)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert tuple(rows) == SMALL
    assert all(rows.values())
    assert "by count 0.583" in rows["sink-arms"][0]["note"]  # 7 / 12
    assert "by count 0.875" in rows["impulses"][0]["note"]  # ((T + 1) / 2 + 1) / T at T = 4
    assert "16 evaluations" in rows["mass-dit"][0]["note"]  # 2 lanes x 8 steps


def test_the_exponent_of_a_power_law_is_found():
    assert slope([2, 4, 16], [5 * n**1.7 for n in (2, 4, 16)]) == pytest.approx(1.7, abs=1e-12)


def test_a_whole_run_is_charged_with_its_start():
    """(0.3 + 6 / 20) / 0.5 in one round, (0.4 + 8 / 20) / 0.4 in the other."""
    rounds = Rounds(bare=[0.5, 0.4], evaluation=[0.3, 0.4], fixed=[6.0, 8.0])
    assert rounds.ratios(20) == pytest.approx([1.2, 2.0])
    assert rounds.ratios() == pytest.approx([0.6, 1.0])


def test_the_cost_of_a_command_is_its_own():
    """Not the memory of the process that starts it, which holds torch; the first output comes before the end."""
    text = "import time; block = bytearray(64 << 20); print(1, flush=True); time.sleep(0.3); print(2)"
    cost = launch([sys.executable, "-c", text])
    assert cost.output.split() == ["1", "2"]
    assert 0.0625 < cost.gib < 0.15
    assert cost.first_output["wall"] + 0.3 <= cost.seconds["wall"]
    assert 0 < cost.first_output["cpu"] <= cost.seconds["cpu"] + 0.02  # one of them counts in ticks
    with pytest.raises(RuntimeError, match="exit 3"):
        launch([sys.executable, "-c", "raise SystemExit(3)"])


def test_queries_are_timed_on_what_they_read(tmp_path):
    found = time_queries(str(make_store(tmp_path / "run", samples=2, steps=3, record=RECORD)), 2, "wall")
    assert len(found) == 3
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in found.values())


def test_the_page_names_the_rows_there_are():
    page = (ROOT / "docs" / "performance.md").read_text()
    named = {
        name for first in re.findall(r"^\| (`[^|]*`) \|", page, re.MULTILINE) for name in re.findall("`(.*?)`", first)
    }
    assert named == set(ROWS) | {"dit-run", "sd3-run", "mass"}


def test_the_readme_begins_with_the_commands_that_are_timed():
    assert first_commands((ROOT / "README.md").read_text())[0][:2] == ["trace", "run"]


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


@pytest.mark.parametrize("model", ["sd3", "pixart"])
def test_a_pipeline_of_real_size_is_made_and_traced(model, tmp_path, monkeypatch, capsys):
    """In this process and with tiny sizes: that its parts fit together and a mask acts."""
    from benchmarks import real_size

    monkeypatch.setattr(real_size, "alone", lambda function, *arguments: function(*arguments))
    found = real_size.main(["--smoke", "--model", model, "--size", "64", "--mask", "R1S2", "--folder", str(tmp_path)])
    assert json.loads(capsys.readouterr().out)["weights"] == found["weights"] > 10_000
    assert len(found["step_seconds"]) == 2
    assert min(found["delta"]) > 0
    assert "4x4 image" in found["tokens"]
