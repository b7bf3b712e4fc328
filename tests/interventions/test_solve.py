"""Claims about the density solver: it finds the tabled graphs, and says what cannot be reached."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interventions import SpecError, TokenLayout, density, parse, solve_density

FAMILIES = ("small-world", "local", "random", "preferential", "hub-spoke")


@pytest.mark.parametrize(
    ("grid", "family", "target", "spec"),
    [  # entries of the project's density table
        ((7, 7), "small-world", 0.25, "R1S8"),
        ((7, 7), "small-world", 0.50, "R3S7"),
        ((14, 14), "small-world", 0.25, "R4S16"),
        ((14, 14), "small-world", 0.50, "R4S65"),
        ((16, 16), "small-world", 0.25, "R4S30"),
        ((16, 16), "small-world", 0.50, "R4S94"),
        ((64, 64), "small-world", 0.25, "R4S985"),
        ((64, 64), "small-world", 0.50, "R4S2009"),
        ((14, 14), "random", 0.13, "R0S24"),
        ((16, 16), "random", 0.25, "R0S63"),
        ((16, 16), "random", 0.50, "R0S127"),
        ((7, 7), "local", 0.50, "R4S0"),
        ((64, 64), "local", 0.25, "R26S0"),
        ((64, 64), "local", 0.50, "R41S0"),
        ((14, 14), "local", 0.13, "R3S0"),  # 10.8%: no radius hits 13%, this is the nearest and within a quarter
        ((16, 16), "preferential", 0.25, "D0.25A1"),
    ],
)
def test_the_solver_finds_the_tabled_graphs(grid, family, target, spec):
    assert solve_density(family, target, TokenLayout(grid)) == parse(spec)


@given(
    st.sampled_from(FAMILIES),
    st.floats(0.001, 1),
    st.tuples(st.integers(2, 9), st.integers(2, 9)),
    st.integers(0, 4),
)
@settings(max_examples=80, deadline=None)
def test_what_is_solved_has_the_density_that_was_asked_or_an_error_says_why(family, target, grid, prefix):
    layout = TokenLayout(grid, prefix=prefix)
    try:
        spec = solve_density(family, target, layout)
    except SpecError as error:
        reason = str(error)
        assert "reaches" in reason or "no small-world graph fits" in reason
        return
    spec.check(layout)
    reached = density(spec.mask(layout, seed=1), layout)
    assert abs(reached - target) <= 0.25 * target + 1 / layout.image_tokens**2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("target", [0.1, 0.25, 0.5, 0.75])
def test_on_the_grid_of_dit_every_family_but_local_comes_within_two_percent_of_the_target(family, target):
    layout = TokenLayout((16, 16))
    reached = density(solve_density(family, target, layout).mask(layout), layout)
    assert reached == pytest.approx(target, rel=0.2 if family == "local" else 0.02)


@pytest.mark.parametrize(
    ("family", "target", "grid", "reason"),
    [
        ("small-world", 0.02, (14, 14), "R1S1"),
        ("local", 0.01, (16, 16), "R1S0"),
        ("local", 0.002, (64, 64), r"R1S0 .* and R2S0"),
        ("preferential", 0.005, (16, 16), "0.01172 to 1"),
        ("hub-spoke", 0.005, (16, 16), "K1 "),
        ("random", 0.003, (16, 16), "R0S1 "),
        ("small-wrld", 0.25, (16, 16), "did you mean small-world"),
        ("local", 1.0, (1, 1), "no local graph fits"),
        ("small-world", 1.0, (1, 2), "no small-world graph fits"),
        ("random", 1.5, (16, 16), "above 0 and at most 1"),
        ("random", 0.0, (16, 16), "above 0 and at most 1"),
    ],
)
def test_an_unreachable_density_is_answered_with_what_can_be_reached(family, target, grid, reason):
    with pytest.raises(SpecError, match=reason):
        solve_density(family, target, TokenLayout(grid))
