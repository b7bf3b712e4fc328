"""The recipes behind the pages: read, filled in, rehearsed, resumed; every command they hold is one that exists."""

import json
import os
import shlex
import subprocess
from dataclasses import replace
from datetime import UTC, datetime

import click
import pytest
from click.testing import CliRunner

from tracer.cli import reproduce as module
from tracer.cli.main import main
from tracer.cli.reproduction.beside import APART, beside, measured, sentence, shown
from tracer.cli.reproduction.cost import cost
from tracer.cli.reproduction.lines import commands, matches, rehearsal
from tracer.cli.reproduction.recipe import RECIPES, SCALES, RecipeError, Row, braces, read, recipes
from tracer.store.provenance import change_before

ALL = recipes()


def test_braces_are_a_shells():
    assert braces("a/T{0050,0100}/b") == ["a/T0050/b", "a/T0100/b"]
    assert braces("--mask") == ["--mask"]


def test_a_star_stands_for_what_is_there_when_the_command_runs(tmp_path):
    for name in ("fork0009", "fork0003"):
        (tmp_path / name).mkdir()
    assert matches(f"{tmp_path}/fork*") == [f"{tmp_path}/fork0003", f"{tmp_path}/fork0009"]
    assert matches("R4S32") == ["R4S32"]


def test_comments_and_empty_lines_are_no_commands(tmp_path):
    file = tmp_path / "x.toml"
    file.write_text(
        'about = "x"\ncommands = """\n# first\nmask $m --out $out/m.png\n\n"""\n[words]\nm = "R4S32 --grid 8x8"\n'
    )
    assert read(file).at().lines(tmp_path / "a b") == [
        ["mask", "R4S32", "--grid", "8x8", "--out", str(tmp_path / "a b" / "m.png")]
    ]


def test_a_rehearsal_has_few_samples_paths_and_steps_and_folders_named_by_them():
    line = shlex.split("run --samples 80 --paths 8 --forks 8 --counts 50,100,1000 --steps 20 --out r/T0250")
    small = shlex.split("run --samples 3 --paths 2 --forks 2 --counts 5,6,11 --steps 5 --out r/T0008")
    assert rehearsal(line) == small
    coarse = rehearsal(shlex.split("run --steps 48 --arm steps24 --arm steps16 --arm cache3@steps=0.25:1.0 --out r"))
    assert coarse == shlex.split("run --steps 5 --arm steps3 --arm steps2 --arm cache3@steps=0.25:1.0 --out r")
    pictures = rehearsal(shlex.split("sweep figure1 --samples 24 --contrast 192 --out r"))
    assert pictures[len(pictures) - 1 - pictures[::-1].index("--contrast") + 1] == "3"  # the last of an option counts


def test_what_exists_is_resumed_and_not_repeated(tmp_path):
    (tmp_path / "dit-R4S32").mkdir()
    run, analyze = commands(ALL["growth"].at(), tmp_path)
    assert run[-1] == "--resume"
    assert "--resume" not in analyze


@pytest.mark.parametrize("name", sorted(ALL))
@pytest.mark.parametrize("small", [False, True])
def test_every_command_of_a_recipe_is_one_that_exists_with_these_options(name, small, tmp_path):
    if ALL[name].none_at("embedded"):
        pytest.skip("not at this scale")
    for line in commands(ALL[name].at(), tmp_path, small=small):
        check(line)


def test_a_recipe_lies_beside_the_page_that_it_makes():
    assert {file.stem for file in RECIPES.glob("*.toml")} == set(ALL) >= {"growth", "findings", "figure1", "sinks"}


def test_a_study_whose_samples_diverged_goes_on_and_exits_with_1_at_the_end(monkeypatch, tmp_path):
    ran = []

    @click.group()
    def group():
        pass

    @group.command()
    @click.argument("word")
    def run(word):
        ran.append(word)
        if word == "wild":
            raise click.exceptions.Exit(1)

    group.add_command(module.reproduce)
    monkeypatch.setattr(module, "commands", lambda study, out, small, weights: [["run", "wild"], ["run", "calm"]])
    result = CliRunner().invoke(group, ["reproduce", next(iter(ALL)), "--out", str(tmp_path)])
    assert (result.exit_code, ran) == (1, ["wild", "calm"])


RECIPE = """
about = "x"
paper = "sinks"
how = "y"
commands = \"\"\"
$run --mask R1S0 --samples 8 --out $out/run
score $out/run --metric $metric
\"\"\"
[words]
run = "run --checkpoint $checkpoint"
mask = "R1S0"
[embedded]
checkpoint = "embedded:dit"
metric = "pixels"
[paper-scale]
checkpoint = "facebook/DiT-XL-2-256"
metric = "lpips"
[needs]
prompts = "a file of prompts"
[as-published]
mask = "R0S1"
why = "its code draws anew"
[[row]]
what = "$metric of $mask"
table = "$out/run/quality.csv"
pick = { arm = "$mask", metric = "$metric" }
published = [0.2, 0.3, 0.4]
margin = 0.1
claim = "above 0"
[[row]]
what = "at paper scale only"
table = "$out/run/quality.csv"
pick = { arm = "$mask" }
claim = "above 0"
only = "paper"
[[figure]]
file = "$out/run/quality.png"
says = "of $mask"
"""
TABLE = "metric,arm,low,estimate,high\npixels,R1S0,0.25,0.3,0.35\npixels,R0S1,-1,0,1\n"


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "x.toml"
    file.write_text(RECIPE)
    return read(file)


@pytest.fixture
def done(tmp_path):
    """A folder in which the commands have run."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "quality.csv").write_text(TABLE)
    (tmp_path / "run" / "quality.png").write_bytes(b"figure")
    return tmp_path


def test_words_hold_words_and_a_scale_has_its_own(recipe, tmp_path):
    run, _ = recipe.at("paper", {"prompts": "p.txt"}).lines(tmp_path)
    assert run[:3] == ["run", "--checkpoint", "facebook/DiT-XL-2-256"]
    assert [row.what for row in recipe.at().rows(tmp_path)] == ["pixels of R1S0"]
    assert recipe.at(as_published=True).rows(tmp_path)[0].pick == {"arm": "R0S1", "metric": "pixels"}


def test_what_does_not_ship_is_asked_for_by_name_and_a_word_that_is_none_is_refused(recipe):
    with pytest.raises(RecipeError, match="--with prompts=PATH   a file of prompts"):
        recipe.at("paper")
    with pytest.raises(RecipeError, match=r"no such word: did you mean checkpoint\? choose one of checkpoint, "):
        recipe.at(given={"chekpoint": "x"})
    with pytest.raises(RecipeError, match="study of the embedded models"):
        ALL["growth"].at("paper")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"published": (1.0,)}, "needs a margin"),
        ({"claim": "better"}, 'write "above X"'),
        ({"claim": "above 0", "only": "gpu"}, "embedded, paper"),
        ({"claim": "above 0", "columns": ("a", "b")}, "one entry, or low, value and high"),
    ],
)
def test_a_row_that_could_say_nothing_is_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        Row("x", "t.csv", {}, **wrong)


def test_a_papers_row_says_what_the_paper_says(tmp_path):
    (tmp_path / "x.toml").write_text(RECIPE.replace('claim = "above 0"\nonly', "only"))
    with pytest.raises(RecipeError, match='row "at paper scale only": give what is published, what is claimed'):
        read(tmp_path / "x.toml")


def test_a_row_reads_its_one_line(recipe, done):
    (row,) = recipe.at().rows(done)
    found = measured(row)
    assert (found.low, found.value, found.high) == (0.25, 0.3, 0.35)


@pytest.mark.parametrize(
    ("pick", "says"),
    [
        ({"arm": "R2S0"}, "no line with arm = 'R2S0'; it has R1S0, R0S1"),
        ({"metric": "pixels"}, "2 lines of"),
        ({"mask": "R1S0"}, "no column 'mask'; it has metric, arm"),
    ],
)
def test_a_line_that_is_not_there_or_not_alone_is_named(pick, says, done):
    with pytest.raises(RecipeError, match=says):
        measured(Row("x", str(done / "run" / "quality.csv"), pick, claim="above 0"))


def test_a_number_of_an_embedded_model_is_never_compared(recipe, done):
    (line,) = beside(recipe.at().rows(done), comparable=False)
    assert (line.verdict, line.pattern) == (APART, "same pattern")
    assert shown([line])["the two"].tolist() == ["cannot be compared, same pattern"]
    assert sentence([line]).startswith("No number here can be compared")


def test_at_paper_scale_a_number_agrees_within_its_margin(recipe, done):
    (line,) = beside(recipe.at().rows(done), comparable=True)
    assert line.verdict == "agree"  # 90%: +-.84 hypot(.05, .1) = .094, inside .1
    assert sentence([line]).startswith("Of 1 published value 1 agree within their margins, 0 differ beyond them")
    (line,) = beside([replace(line.row, margin=0.09)], comparable=True)
    assert line.verdict == "undecided"


def test_a_row_that_cannot_be_read_is_said_and_ends_nothing(recipe, done):
    """A measure may refuse (too few steps, a mass out of reach); the hours before it are not lost."""
    (done / "run" / "quality.csv").write_text(TABLE.replace("0.25,0.3,0.35", ",,"))
    (empty,) = beside(recipe.at().rows(done), comparable=False)
    (done / "run" / "quality.csv").unlink()
    (absent,) = beside(recipe.at().rows(done), comparable=True)
    for line in (empty, absent):
        assert (line.verdict, line.pattern) == ("not measured", "")
        assert sentence([line]).endswith("1 row could not be read.")
    assert "has no number" in empty.problem
    assert "should have written" in absent.problem


def test_weights_go_to_the_lines_that_name_their_metric(recipe, tmp_path):
    study = recipe.at("paper", {"prompts": "p"})
    lines = commands(study, tmp_path, weights={"lpips": "w.pth", "cmmd": "c.pt"})
    assert lines[1][-2:] == ["--weights", "lpips=w.pth"]
    assert "--weights" not in lines[0]


def test_the_cost_is_that_of_all_commands_that_say_theirs():
    said = {"a": (2, 10, 5), "b": (3, 20, 4)}

    def run(line):
        assert line[-2:] == ["--dry-run", "--json"]
        seconds, disk, memory = said[line[1]]
        print(json.dumps({"seconds": seconds, "disk_bytes": disk, "memory_bytes": memory}))

    found = cost([["run", "a"], ["analyze", "x"], ["sweep", "figure1"], ["run", "b"]], run, lambda done, total: None)
    assert (found.seconds, found.disk, found.memory, found.commands) == (5, 30, 5, 2)
    assert found.unpriced == ("analyze", "sweep")


def test_scores_are_priced_by_the_run_that_is_still_to_be_made(tmp_path):
    """2 arms of 5 samples; a run of three that a study makes; and a run that is there, which is asked itself."""
    (tmp_path / "there").mkdir()
    asked = []

    def run(line):
        asked.append(line)
        one = {"arms": ["clean", "x"], "samples": 5, "image_size": [8, 16]}
        answer = {"runs": [one, one]} if line[0] == "counterfactual" else one
        print(json.dumps({"seconds": 1, "disk_bytes": 1, "memory_bytes": 1, **answer}))

    lines = [["run", "--out", f"{tmp_path}/run"], ["counterfactual", "steps", "--out", f"{tmp_path}/study"]]
    lines += [["score", f"{tmp_path}/{name}"] for name in ("run", "study/T0005", "there")]
    assert cost(lines, run, lambda done, total: None).commands == 5
    assert asked[2][2:4] == asked[3][2:4] == ["--expect", "2x5x8x16"]
    assert "--expect" not in asked[4]


def test_a_papers_recipe_ends_with_its_table_and_the_page_holds_it(recipe, done, monkeypatch):
    """The commands are left out: what they write is there."""
    monkeypatch.setattr(module, "recipes", lambda: {"x": recipe})
    monkeypatch.setattr(module, "commands", lambda study, out, small, weights: [])
    result = CliRunner().invoke(main, ["reproduce", "x", "--out", str(done)])
    assert result.exit_code == 0, result.output
    assert "cannot be compared, same pattern" in result.output
    assert "only the abstract is held here" in " ".join(result.output.split())
    assert (done / "published.csv").read_text().splitlines()[1].startswith("pixels of R1S0,0.3,0.2,0.4,0.3,0.25,0.35")

    (done / "all").mkdir()
    (done / "all" / "x").symlink_to(done)
    result = CliRunner().invoke(main, ["reproduce", "papers", "--out", str(done / "all"), "--page", str(done / "p.md")])
    assert result.exit_code == 0, result.output
    page = (done / "p.md").read_text()
    assert "| [x](#x) | x | 1 | 0 | 0 |" in page
    assert "| lpips of R1S0 | 0.3 [0.2, 0.4] |" in page
    assert "| pixels of R1S0 | 0.3 [0.25, 0.35] | above 0 | same pattern |" in page
    assert "![of R1S0](p/x-run-quality.png)" in page
    assert (done / "p" / "x-run-quality.png").read_bytes() == b"figure"


def test_the_plan_is_the_last_commit_before_the_first_sample(tmp_path):
    """Three commits a day apart; the runs begin between the second and the third."""

    def git(*words, day="01"):
        moment = f"2026-01-{day}T12:00:00+00:00"
        who = {f"GIT_{role}_{what}": "x" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        who |= {"GIT_COMMITTER_DATE": moment, "GIT_AUTHOR_DATE": moment}
        ran = subprocess.run(
            ["git", "-C", str(tmp_path), *words], env=os.environ | who, capture_output=True, check=True
        )
        return ran.stdout.decode().strip()

    git("init", "-q")
    files = [tmp_path / "one.toml", tmp_path / "two.toml"]
    for day, texts in (("01", "aa"), ("02", "ab"), ("03", "cb")):
        for file, text in zip(files, texts, strict=True):
            file.write_text(text)
        git("add", ".")
        git("commit", "-qm", "x", day=day)
    second = git("rev-parse", "HEAD~1")
    commit, changed = change_before(files, datetime(2026, 1, 2, 18, tzinfo=UTC))
    assert second.startswith(commit)
    assert changed == files[:1]
    assert change_before(files, datetime(2025, 1, 1, tzinfo=UTC)) is None
    assert change_before([RECIPES.parent.parent / "nowhere" / "x.toml"], datetime(2026, 1, 1, tzinfo=UTC)) is None


def test_a_users_own_file_is_run(tmp_path):
    (tmp_path / "my.toml").write_text('about = "a picture"\ncommands = "mask R1S0 --grid 4x4 --out $out/m.png"\n')
    result = CliRunner().invoke(main, ["reproduce", str(tmp_path / "my.toml"), "--out", str(tmp_path / "out")])
    assert (result.exit_code, (tmp_path / "out" / "m.png").exists()) == (0, True), result.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nothing.toml"], "no recipe at nothing.toml"),
        (["nothing"], "no study 'nothing'"),
        (["sinks-perceptuel"], "did you mean sinks-perceptual?"),
        (["growth", "--page", "x.md"], "--page belongs to"),
        (["growth", "--with", "device"], "NAME=VALUE"),
        (["growth", "--with", "device=cpu"], "no such word"),
        (["growth", "--as-published"], "nothing that is known"),
        (["papers", "--with", "devise=cpu"], "no recipe has such a word"),
        (["growth", "--scale", "paper"], "study of the embedded models"),
    ],
)
def test_wrong_input_gets_one_message_and_nothing_is_written(words, says, tmp_path):
    result = CliRunner().invoke(main, ["reproduce", *words, "--out", str(tmp_path / "out")])
    assert (result.exit_code, says in result.output, (tmp_path / "out").exists()) == (2, True, False), result.output


PAPER = [(name, scale) for name, recipe in ALL.items() for scale in SCALES if recipe.paper]


@pytest.mark.parametrize(("name", "scale"), [(name, scale) for name, scale in PAPER if not ALL[name].none_at(scale)])
@pytest.mark.parametrize("as_published", [False, True])
def test_every_recipe_of_a_paper_is_whole_at_every_scale(name, scale, as_published, tmp_path):
    """Its commands exist with these options, its rows and figures have all their words."""
    recipe = ALL[name]
    if as_published and not recipe.as_published:
        pytest.skip("nothing differs")
    study = recipe.at(scale, dict.fromkeys(recipe.needs, "x") if scale == "paper" else {}, as_published)
    lines = commands(study, tmp_path)
    for line in lines:
        check(line)
        if scale == "paper" and line[0] == "run":
            assert {"--device", "--dtype"} <= set(line)
    assert study.rows(tmp_path)
    assert all(says for says in (picture.says for picture in study.pictures(tmp_path)))
    assert recipe.how


def check(line):
    """Raise UsageError for a command that does not exist or has not these options."""
    context, command = click.Context(main), main
    rest = list(line)
    while isinstance(command, click.Group):
        command = command.get_command(context, rest.pop(0))
    command.make_context(line[0], rest, parent=context)
