"""The benchmarks run, their baseline is the attention it stands for, and their oracle notices a kernel that is off."""

import json

import pytest
import torch
import torch.nn.functional as F

from benchmarks import gpu
from benchmarks.measure import compare
from benchmarks.models import NaiveAttention


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
    assert {row["baseline"] for row in content["rows"]} == {"stock"}
    assert next(row for row in content["rows"] if row["work"] == "stock")["ratio"] == 1
    assert "naive attention, masked, mass recorded" in capsys.readouterr().out


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
