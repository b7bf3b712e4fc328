"""Whether what a spec asks for can be done: some attention is no softmax call, with neither masks nor keys to remove.

Such modules are declared (`attend(unreachable=...)`). Specs that leave them alone run; those that act on them are
refused here, with what can be done instead. It reads sites and specs and touches no model.
"""

from __future__ import annotations

from collections.abc import Sequence

from interventions.errors import spec_error
from interventions.families import Clean, Full, Intervention, KeyRemoval, OnCalls
from interventions.scope import OF_TEXT, layer_ranges
from interventions.seam.sites import Site


def check_reach(lane: Intervention, sites: Sequence[Site]) -> None:
    """Raise `SpecError` if an intervention acts on attention that cannot be reached.

    A graph acts on self attention, what is found call by call on all that have such queries and keys, in blocks; what
    stands elsewhere (the pooling of a prompt) they mean only by its layer. `full` changes nothing anywhere, so it runs
    on what can be reached.
    """
    if isinstance(lane, Clean | Full) or lane.acting.strength == 0:
        return
    apart = [site for site in sites if not site.reachable and _acts(lane, site)]
    if apart:
        names = ", ".join(site.name for site in apart[:3]) + (", ..." if len(apart) > 3 else "")
        reason = f"the attention of {names} is no softmax call that can be taken over, so nothing can be done to it"
        instead, example = _instead(lane, sites)
        raise spec_error(lane, f"{reason}; {instead}", example)


def _acts(lane: Intervention, site: Site) -> bool:
    """Whether a site has calls that this intervention is about, at any step."""
    scope = lane.scope
    if not site.block if scope.layers is None else site.layer not in scope.layers:
        return False
    if not isinstance(lane, OnCalls):
        return not site.cross
    return scope.queries != "text" and scope.keys not in (("image",) if site.cross else ("text", *OF_TEXT))


def _instead(lane: Intervention, sites: Sequence[Site]) -> tuple[str, str]:
    """What can be done on this model, in words and as a spec."""
    reached = [site for site in sites if site.reachable]
    lost = {site.layer for site in sites if not site.reachable and _acts(lane.at(layers=None), site)}
    layers = tuple(sorted({site.layer for site in reached if _acts(lane.at(layers=None), site)} - lost))
    if layers:
        return f"in layers {layer_ranges(layers)} it can", str(lane.at(layers=layers))
    cross = next((site for site in reached if site.cross), None)
    if cross is None:
        return "this model has no attention that it could act on", "clean"
    keys = lane if isinstance(lane, KeyRemoval) else KeyRemoval("sink", 5)
    return f"the keys of its cross attention ({cross.name}) can", str(keys.at(keys="text", queries="all"))
