"""The recipes of docs/scale.md that need no cluster: as they stand there, at the size of a test."""

import re
import shlex
import subprocess
import sys

import tracer
from tests import plugins
from tests.builders.command_line import ROOT, on_checkout
from tracer.denoisers import registry

PAGE = (ROOT / "docs" / "scale.md").read_text()
SMALL = "--model gaussian --samples 3 --steps 2 --batch-size 1 --record norms --no-floor --device cpu"
"""A model of the plug-ins, since each of the processes would import diffusers for an embedded one."""


def recipe(name):
    """The lines of the shell block under this heading, continuation lines joined."""
    block = re.search(rf"^##+ {name}\n.*?```bash\n(.*?)```", PAGE, re.M | re.S)[1]
    return [line for line in block.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]


def test_torchrun_starts_two_processes_that_share_one_run_with_a_gpu_each(tmp_path):
    (line,) = recipe("torchrun")
    words = shlex.split(line)
    assert words[0] == "torchrun"
    at = words.index("trace")
    command = [
        *(sys.executable, "-m", "torch.distributed.run", *words[1:at], "--nproc-per-node", "2"),
        *(sys.executable, "-m", "tracer.cli.main", *words[at + 1 :], *SMALL.split()),
    ]
    environment = {**on_checkout([plugins.FOLDER]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    path = tmp_path / words[words.index("--out") + 1]
    assert (tracer.open_run(path)["status"].values == 1).all()
    assert len(list((path / "launches").iterdir())) == 2
    assert done.stdout.count("output ") == 2


def test_every_recipe_names_one_run_and_says_resume():
    for name in ("Two terminals", "torchrun", "A Slurm array", "One Slurm job of many nodes"):
        lines = [line for line in recipe(name) if re.search(r"\btrace run\b", line)]
        assert lines, name
        for line in lines:
            words = shlex.split(line)
            assert {"--out", "--resume"} <= set(words), name
            assert not {"--workers", "--scheduler"} & set(words), name


def test_the_ranks_that_the_recipes_rely_on_are_those_that_are_read():
    for name in registry.LOCAL_RANKS:
        assert name in PAGE
