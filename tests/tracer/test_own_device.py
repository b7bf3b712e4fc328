"""One GPU a process: `cuda` means the GPU of the process's rank, on a machine that pretends to have some."""

import pytest
import torch

from tracer.denoisers import registry


@pytest.fixture
def gpus(monkeypatch):
    """A machine with three GPUs and nobody's rank."""
    for name in registry.LOCAL_RANKS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)


@pytest.mark.parametrize("name", ["LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK"])
@pytest.mark.parametrize("device", [None, "cuda", torch.device("cuda")])
def test_every_rank_has_a_gpu_of_its_own_and_they_go_round(gpus, monkeypatch, name, device):
    chosen = []
    for rank in range(4):
        monkeypatch.setenv(name, str(rank))
        chosen.append(registry.own_device(device))
    assert chosen == ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]


def test_the_number_of_a_worker_comes_before_the_rank_of_its_process(gpus, monkeypatch):
    monkeypatch.setenv("SLURM_LOCALID", "0")
    assert [registry.own_device("cuda", number) for number in range(3)] == ["cuda:0", "cuda:1", "cuda:2"]


def test_without_a_rank_or_with_a_device_by_name_nothing_is_chosen(gpus, monkeypatch):
    assert registry.own_device("cuda") == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert registry.own_device("cuda:2") == "cuda:2"
    assert registry.own_device("cpu") == "cpu"


def test_the_gpu_of_the_rank_is_used_and_becomes_the_current_one(gpus, monkeypatch):
    current = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch, "zeros", lambda *shape, device: 0.0)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert registry.usable_device("cuda") == torch.device("cuda:2")
    assert current == [torch.device("cuda:2")]


def test_where_there_is_no_gpu_a_rank_changes_nothing(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert registry.own_device() == "cpu"
