"""The price of a run with a cache: it is timed where nothing is reused that was never computed."""

from click.testing import CliRunner

from tracer.cli.main import main


def test_a_cache_that_reuses_in_the_middle_of_the_run_is_priced():
    """Of 6 steps the middle one is step 3, which `cache3@steps=2:6` reuses."""
    line = "run --arm cache3@steps=2:6 --no-floor --samples 1 --steps 6 --record finals --dry-run"
    result = CliRunner().invoke(main, line.split())
    assert result.exit_code == 0, result.output
