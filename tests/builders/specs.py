"""Hypothesis strategies of interventions: every family, with every scope that means something for it."""

from hypothesis import strategies as st

from interventions.families import Clean, Full, HeadsOff, HubSpoke, KeyRemoval, Patch, Preferential, SmallWorld, TopKeys
from interventions.scope import Scope

layers = st.none() | st.lists(st.integers(0, 99), min_size=1, max_size=6, unique=True).map(tuple)
int_windows = st.tuples(st.integers(0, 500), st.integers(1, 500)).map(lambda pair: (pair[0], pair[0] + pair[1]))
fractions = st.lists(st.floats(0, 1), min_size=2, max_size=2, unique=True).map(lambda edges: tuple(sorted(edges)))
windows = st.none() | int_windows | fractions
common = {"layers": layers, "steps": windows, "pause": windows, "strength": st.just(1.0) | st.floats(0, 1)}
heads = st.none() | st.lists(st.integers(0, 30), min_size=1, max_size=4, unique=True).map(tuple)
graph_scopes = st.builds(
    Scope, **common, heads=heads, queries=st.sampled_from(["all", "image"]), keys=st.sampled_from(["all", "image"])
)
kinds = st.sampled_from(["all", "image", "text", "prefix"])


@st.composite
def removals(draw, scopes=None, most=9999):
    """A key removal of at most so many keys; scopes: a strategy of the common options as a dict."""
    kind, path = draw(st.sampled_from(["sink", "random", "bottom"])), draw(st.sampled_from(["score", "value"]))
    shared = draw(scopes) if scopes is not None else {name: draw(strategy) for name, strategy in common.items()}
    fill = draw(st.sampled_from(["zero", "mean", "noise"] if path == "value" else ["zero"]))
    matching = draw(st.sampled_from(["kinds", "mass", "any"] if kind == "random" else ["kinds"]))
    drawn = kind == "random" or fill == "noise"
    scope = Scope(
        **{"queries": draw(kinds), "keys": draw(kinds), **shared},
        source=draw(st.sampled_from(["own", "clean"])),
        draw=draw(st.sampled_from(["persistent", "fresh"] if drawn else ["persistent"])),
        fill=fill,
    )
    per = draw(st.sampled_from(["head", "layer"]))
    return KeyRemoval(kind, draw(st.integers(1, most)), path, per, matching, scope=scope)


call_scopes = st.builds(Scope, **common, heads=heads, queries=kinds)
sides = st.sampled_from([Clean(), SmallWorld(4, 32), KeyRemoval("sink", 5), TopKeys(16), HeadsOff()])
hosted = st.builds(Patch, sides, sides, scope=call_scopes)
interventions = st.one_of(
    st.builds(TopKeys, st.integers(1, 999), scope=call_scopes),
    st.builds(TopKeys, share=st.floats(0, 1, exclude_min=True), scope=call_scopes),
    st.builds(HeadsOff, scope=call_scopes),
    st.builds(Patch, sides, scope=call_scopes),
    st.just(Clean()),
    st.builds(Full, scope=st.builds(Scope, layers=layers, steps=windows, pause=windows)),
    st.builds(SmallWorld, st.integers(0, 99), st.integers(0, 9999), scope=st.just(Scope()) | graph_scopes),
    st.builds(Preferential, st.floats(0, 1, exclude_min=True), st.floats(0, 10), scope=graph_scopes),
    st.tuples(st.integers(1, 999), st.integers(1, 999), st.booleans(), graph_scopes).map(
        lambda drawn: HubSpoke(max(drawn[:2]), min(drawn[:2]), drawn[2], scope=drawn[3])
    ),
    removals(),
)
