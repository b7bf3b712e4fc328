"""The catalogue of what a run may record: one entry a record, with its arrays and the line that help shows.

`--record`, the plan, the schema page and the arrays on the disk all derive from `RECORDS`. Computing the values is the
loop's (`tracer.trajectory`); an array is cut and written by the rest of this room.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tracer.store.schema import FAILED_STEP, RunError, Variable

MASS_BITS = 10  # mantissa bits kept of attention mass: relative error 2^-11
TOKEN_KINDS = {"flag_values": [0, 1, 2, 3], "flag_meanings": "image text prefix padding"}
"""Attributes of the coordinate `token_kind`."""

_STEP = ("arm", "sample", "step")
_STATE = ("channel", "y", "x")
_PICTURE = ("arm", "sample", "image_y", "image_x", "rgb")
_HEAD = (*_STEP, "layer", "head")
_GROUPS = ("metrics", "trajectory", "decomposition", "attention", "interventions", "images", "cost")


@dataclass(frozen=True)
class Record:
    """Something a run may record: its name, one line of help, its arrays.

    brings: records that are always taken with it.
    """

    name: str
    help: str
    arrays: tuple[Variable, ...]
    brings: tuple[str, ...] = ()


def _per_step(name: str, text: str, before: float | None = 0.0) -> Variable:
    """A number per arm, sample and step; `before` is its value before the arm departs from the clean one."""
    return Variable(f"metrics/{name}", _STEP, long_name=text, before=before)


def _per_arm(path: str, text: str) -> Variable:
    """A final state per arm and sample; 0 for an arm that never departs."""
    return Variable(path, ("arm", "sample", *_STATE), long_name=text, before=0.0)


def _energy(path: str, dims: tuple[str, ...], text: str, **options: Any) -> Variable:
    """The energy of a recorded field per ring of spatial frequency."""
    text = f"energy of the {text} per radial ring of DCT modes"
    return Variable(f"{path}_energy", (*dims, "ring"), long_name=text, where_sized=True, **options)


def _mass(name: str, dims: tuple[str, ...], averaged: str) -> Variable:
    text = f"attention a key receives, mean over queries{averaged}; sums to 1 over keys"
    return Variable(f"attention/{name}", (*dims, "token"), long_name=text, keep_bits=MASS_BITS)


def _key(name: str, text: str, units: str = "1") -> Variable:
    return Variable(
        f"attention/{name}",
        (*_STEP, "layer", "token"),
        long_name=f"{text}, before anything is removed, mean over heads",
        units=units,
        keep_bits=MASS_BITS,
    )


def _cost(name: str, text: str, units: str) -> Variable:
    """What one network call took; it is measured in the first unit alone."""
    return Variable(f"cost/{name}", _STEP, "float64", f"{text}; NaN where not measured", units, optional=True)


_CLEAN_X0 = Variable("trajectory/x0", ("sample", "step", *_STATE), long_name="clean x0 prediction made in the step")

_REMOVED_TOGETHER = (
    Variable(
        "attention/removed_count",
        (*_HEAD, "kind"),
        "int32",
        "keys of the kind that the intervention removed, -1 where it did not act",
        optional=True,
        where_sized=True,
    ),
    Variable(
        "attention/removed_together",
        (*_HEAD, "kind"),
        long_name="mass that the removed keys of the kind had together, mean over the queries concerned",
        optional=True,
        where_sized=True,
    ),
    Variable(
        "attention/removed_goal",
        (*_HEAD, "kind"),
        long_name="mass of the sinks of the kind, which removed keys were to equal together; NaN where number decides",
        optional=True,
        where_sized=True,
    ),
)
"""What stands for the tokens of an arm that removes as many as it takes: only in a run that has such an arm."""

_CATALOGUE = (
    Record(
        "norms",
        "size of the error after every step; always recorded",
        (
            _per_step("delta_l2", "Euclidean norm of masked minus clean state after the step"),
            _per_step("delta_rel", "norm of masked minus clean state over the norm of the clean state, after the step"),
            _per_step("delta_linf", "largest absolute entry of masked minus clean state after the step"),
            _per_step("delta_cosine", "cosine of the angle between masked and clean state after the step", 1.0),
            _per_step("eps_l2", "norm of the difference of noise predictions made in the step"),
            _per_step("x0_l2", "norm of the difference of x0 predictions made in the step"),
            Variable(
                FAILED_STEP,
                ("arm", "sample"),
                "int32",
                "step in which the sample turned NaN or infinite, -1 for none",
                optional=True,
            ),
            Variable(
                "interventions/mask",
                ("arm", "query", "key"),
                "bool",
                "whether the query may attend to the key",
                where_sized=True,
            ),
        ),
    ),
    Record(
        "latents",
        "clean states, masked minus clean states, and the starting noise",
        (
            Variable("trajectory/latent", ("sample", "step", *_STATE), long_name="clean state after the step"),
            Variable(
                "trajectory/delta", (*_STEP, *_STATE), long_name="masked minus clean state after the step", before=0.0
            ),
            Variable("trajectory/noise", ("sample", *_STATE), long_name="initial state x_T"),
            _energy("trajectory/latent", ("sample", "step"), "clean state"),
            _energy("trajectory/delta", _STEP, "masked minus clean state", before=0.0),
        ),
    ),
    Record(
        "finals",
        "masked minus clean state after the last step",
        (
            Variable(
                "trajectory/final_delta",
                ("arm", "sample", *_STATE),
                long_name="masked minus clean state after the last step",
                before=0.0,
            ),
        ),
    ),
    Record("x0", "the clean x0 prediction of every step", (_CLEAN_X0,)),
    Record(
        "mass",
        "attention each key receives, mean over heads",
        (_mass("mass_layer", (*_STEP, "layer"), " and heads"),),
    ),
    Record(
        "mass-per-head",
        "the same for every head; large",
        (_mass("mass", _HEAD, ""),),
    ),
    Record(
        "entropy",
        "entropy of attention for every head",
        (
            Variable(
                "attention/entropy",
                _HEAD,
                long_name="entropy of the attention of a query, mean over queries",
                units="nat",
            ),
        ),
    ),
    Record(
        "sinks",
        "the keys of largest mass, and those that an arm removes",
        (
            Variable("attention/sink_token", (*_HEAD, "rank"), "int16", "token of the key of this rank by mass"),
            Variable("attention/sink_mass", (*_HEAD, "rank"), long_name="mass of the key of this rank"),
            Variable(
                "attention/removed_token",
                (*_HEAD, "removed"),
                "int16",
                "token of a key that the intervention removed, -1 for none",
                optional=True,
                where_sized=True,
            ),
            Variable(
                "attention/removed_mass",
                (*_HEAD, "removed"),
                long_name="mass that a removed key received before, mean over the queries concerned",
                optional=True,
                where_sized=True,
            ),
            *_REMOVED_TOGETHER,
        ),
    ),
    Record(
        "keys",
        "how long keys and values are and how keys lie to the mean query, mean over heads",
        (
            _key("key_norm", "Euclidean norm of a key"),
            _key("value_norm", "Euclidean norm of a key's value"),
            _key("key_query", "mean logit of a key over all queries, its scaled product with the mean query", "nat"),
            _key("key_cosine", "cosine of the angle between a key and the mean query"),
        ),
    ),
    Record(
        "words",
        "how much every image token attends to each word of the prompt, at the steps of frames",
        (
            Variable(
                "attention/word_map",
                ("arm", "sample", "frame_step", "word", "map_y", "map_x"),
                long_name="attention an image token pays to the tokens of a word, mean over heads and layers",
                keep_bits=MASS_BITS,
            ),
        ),
    ),
    Record(
        "injected",
        "what masking adds at the clean state in every step",
        (
            _per_step("injected_l2", "norm of what masking adds at the clean state, |G(x) - F(x)|"),
            _per_step("injected_mean_l2", "norm of the part of the injected error that enters through the step's mean"),
            _per_step(
                "injected_variance_l2", "norm of the part of the injected error that enters through the noise scale"
            ),
            _per_step(
                "injected_x0_l2", "norm of the x0-prediction change that masking makes at the clean state, one pass"
            ),
            Variable(
                "decomposition/injected",
                (*_STEP, *_STATE),
                long_name="error that masking adds at the clean state in the step, G(x) - F(x)",
                before=0.0,
                beside="latents",
            ),
            _energy("decomposition/injected", _STEP, "injected error", before=0.0, beside="latents"),
        ),
    ),
    Record(
        "decomposition",
        "injected, propagated and interaction part of every step's error, and its gain",
        (
            _per_step("propagated_l2", "norm of what the clean step makes of the error it was handed, |F(y) - F(x)|"),
            _per_step("interaction_l2", "norm of G(y) - G(x) - F(y) + F(x)"),
            _per_step("injected_propagated_cosine", "cosine of the angle between injected and propagated error", None),
            _per_step("gain", "secant gain of the clean step, |F(y) - F(x)| / |y - x|; NaN where y equals x", None),
            _per_step("closure", "|delta - injected - propagated - interaction| / |delta|, rounding only"),
        ),
        brings=("injected",),
    ),
    Record(
        "null",
        "what the error would be if nothing fed back: the additive null",
        (
            _per_step("null_l2", "norm of the contribution d_k of the step to the additive null"),
            _CLEAN_X0,
            Variable(
                "decomposition/null_sum",
                ("arm", "sample", *_STATE),
                long_name="sum over steps of the contributions d_k to the additive null, at the final state",
                before=0.0,
            ),
        ),
        brings=("injected",),
    ),
    Record(
        "replay",
        "the clean path's injections played through the clean network, for feedback",
        (
            _per_step("replay_l2", "norm of replayed minus clean state after the step, |w - x|"),
            _per_arm("trajectory/final_replay", "replayed minus clean state after the last step"),
            Variable("images/replay", _PICTURE, "uint8", "decoded result of the replay", fill=0, beside="images"),
        ),
        brings=("injected",),
    ),
    Record(
        "own",
        "what each path's own injections shift the result by, for scatter; samplers that draw noise",
        (
            _per_step("own_l2", "norm of the contribution d*_k of the step to the own-path sum, |D(G(y)) - D(F(y))|"),
            _per_step("own_injected_l2", "norm of what masking adds at the masked state, |G(y) - F(y)|"),
            _per_arm(
                "decomposition/own_sum",
                "sum over steps of the contributions d*_k of the masked path's own injections, at the final state",
            ),
            _per_arm(
                "decomposition/replay_own_sum",
                "the same sum for the replayed path: D(w') - D(F(w)), at the final state",
            ),
        ),
        brings=("injected", "replay", "null", "finals"),
    ),
    Record(
        "transport",
        "injections carried on by the clean steps' linear maps; samplers without noise",
        (
            _per_step("transport_l2", "norm of the injections carried by the clean steps' linear maps, |tau|"),
            _per_arm(
                "decomposition/transport_final",
                "injections of all steps carried to the end by the clean steps' linear maps, tau",
            ),
        ),
        brings=("injected", "replay"),
    ),
    Record(
        "tangent",
        "gain of the clean step along the error, infinitesimal",
        (_per_step("tangent_gain", "gain of the clean step at the clean state along the error, |J u|", None),),
    ),
    Record(
        "worst",
        "largest gain of the clean step in any direction; slow",
        (
            Variable(
                "metrics/worst_gain",
                ("sample", "step"),
                long_name="largest singular value of the clean step's Jacobian at the clean state",
            ),
        ),
    ),
    Record(
        "images",
        "decoded results",
        (
            Variable(
                "images/image",
                _PICTURE,
                "uint8",
                "decoded result of the trajectory",
                fill=0,
            ),
        ),
    ),
    Record(
        "frames",
        "pictures of the x0 prediction at some steps (--frames), for scores per step",
        (
            Variable(
                "images/frame",
                ("arm", "sample", "frame_step", "frame_y", "frame_x", "rgb"),
                "uint8",
                "decoded x0 prediction made in the step",
                fill=0,
            ),
        ),
    ),
    Record(
        "cost",
        "what each arm's network calls take beside clean ones; always recorded where an arm changes the network",
        (
            Variable(
                "cost/evaluations",
                ("arm", "step"),
                long_name="network evaluations of the arm in the step, by count; NaN where it is unknown",
            ),
            _cost("seconds", "wall time of the arm's network call in the step, over its samples", "s"),
            _cost("arithmetic", "multiply-adds of the arm's network call in the step, over its samples", "1"),
        ),
    ),
)

RECORDS: dict[str, Record] = {record.name: record for record in _CATALOGUE}
"""Name -> record, in the order in which help lists them."""

DEFAULT = ("latents", "images", "frames", "replay", "mass", "sinks")
"""What a run records that names no records: what the first questions need, and the pictures along the way. A model
without attention leaves out what is measured of it."""


def with_brought(record: Iterable[str]) -> frozenset[str]:
    """These records, `norms`, and all that they bring; RunError for one that does not exist."""
    named = {*record, "norms"}
    if unknown := sorted(named - RECORDS.keys()):
        raise RunError(f"cannot record {', '.join(unknown)}; choose from {', '.join(RECORDS)}")
    return frozenset(named.union(*(RECORDS[name].brings for name in named)))


def _fitted(array: Variable, sizes: Mapping[str, int]) -> Variable:
    """The array with frames where the run has them, and with room for the numbers of all its tokens."""
    if "frame" in sizes and "channel" in array.dims:
        at = array.dims.index("channel")
        array = replace(array, dims=(*array.dims[:at], "frame", *array.dims[at:]))
    if array.dtype == "int16" and sizes.get("token", 0) > 2**15:
        array = replace(array, dtype="int32")
    return array


def variables(record: Iterable[str], sizes: Mapping[str, int]) -> list[Variable]:
    """The arrays of a run that records these things, in the order of the schema page.

    record: names in `RECORDS`; "norms" is always on. sizes: arm, sample, step, channel, y, x, and where a record needs
    them layer, head, token, rank, removed, query, key, image_y, image_x, frame_step, frame_y, frame_x. Static masks are
    listed when query and key are given, removed keys when removed is, their sums when kind is, energies when ring is.
    States have the dimension frame before channel where its size is given (a video). Raises RunError for an unknown
    record or a missing size.
    """
    recorded = with_brought(record)
    arrays = {array.path: array for name in RECORDS if name in recorded for array in RECORDS[name].arrays}
    arrays = {path: _fitted(array, sizes) for path, array in arrays.items()}
    listed = [
        array
        for array in arrays.values()
        if (array.beside is None or array.beside in recorded)
        and (not array.where_sized or sizes.keys() >= set(array.dims))
    ]
    for array in listed:
        array.shape(sizes)
    return sorted(listed, key=lambda array: _GROUPS.index(array.group))
