"""Activation patches against plain forward hooks and against attention written out densely; what they record."""

import pytest
import torch

from interventions import SeamError, SpecError, arm_coordinates, attend, parse
from tests.builders import models
from tests.builders.one_call import LAYOUT, random_call, run
from tests.oracles import dense

torch.set_num_threads(1)
NAMES = ["dit", "sd3", "sdxl"]


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def lanes(name, *specs, samples=2, halves=1):
    """Outputs [half, lane, sample, ...] of a small model whose lanes read different states, and its inputs by row."""
    model, layout = getattr(models, name)()
    inputs = getattr(models, f"{name}_inputs")(halves * len(specs) * samples)
    with attend(model, [parse(spec) for spec in specs], layout=layout, samples=list(range(samples))):
        return model(**inputs).sample.unflatten(0, (halves, len(specs), samples))


def hooked(model, inputs, layer, spec, layout, given=None):
    """(the output, the heads' outputs of a layer [rows, tokens, width]) of a forward under a spec, by plain hooks on
    its output projection; given(own): what stands in the place of the layer's own."""
    seen = []

    def swap(module, arguments):
        seen.append(arguments[0].clone())
        return None if given is None else (given(arguments[0]), *arguments[1:])

    projection = dict(model.named_modules())[f"transformer_blocks.{layer}.attn1.to_out.0"]
    handle = projection.register_forward_pre_hook(swap)
    try:
        with attend(model, parse(spec), layout=layout):
            return model(**inputs).sample, seen[0]
    finally:
        handle.remove()


def rows(inputs, lane, samples=2):
    return {key: value[lane * samples : (lane + 1) * samples] for key, value in inputs.items()}


@pytest.mark.parametrize(("donor", "host"), [("R1S2", "clean"), ("clean", "R1S2"), ("sink-k3", "topk5")])
def test_a_patched_layer_puts_out_what_hooks_copy_from_the_donors_forward(donor, host):
    model, layout = models.dit()
    inputs = models.dit_inputs(6)
    both = [donor, host, f"{donor}-into-{host}@layers=1"]
    with attend(model, [parse(spec) for spec in both], layout=layout, samples=[0, 1]):
        output = model(**inputs).sample.unflatten(0, (3, 2))[2]
    _, copied = hooked(model, rows(inputs, 0), 1, donor, layout)
    expected, own = hooked(model, rows(inputs, 2), 1, host, layout, given=lambda _: copied)
    assert dense.relative(output, expected) < 1e-6
    assert dense.relative(copied, own) > 0.1


def test_heads_query_tokens_and_dose_say_what_is_taken():
    model, layout = models.dit()
    inputs = models.dit_inputs(4)
    patch = "R1S2-into-clean@layers=0;heads=1;strength=0.4"
    with attend(model, [parse("R1S2"), parse(patch)], layout=layout, samples=[0, 1]):
        output = model(**inputs).sample.unflatten(0, (2, 2))[1]
    _, copied = hooked(model, rows(inputs, 0), 0, "R1S2", layout)

    def mixed(own):
        return torch.cat([own[..., :8], 0.6 * own[..., 8:] + 0.4 * copied[..., 8:]], -1)

    expected, _ = hooked(model, rows(inputs, 1), 0, "clean", layout, given=mixed)
    assert dense.relative(output, expected) < 1e-6


@pytest.mark.parametrize("queries", ["image", "text"])
def test_a_patch_of_some_query_tokens_equals_dense_attention_patched_by_hand(queries):
    # expected: attention in float64; in block 1 these queries' heads put out what they did in the clean forward
    model, layout = models.sd3()
    inputs = models.sd3_inputs(4)
    own = torch.from_numpy(layout.kinds() == (queries == "text"))
    mask = torch.from_numpy(parse("R1S2").mask(layout))
    kept = {}

    def clean(name, attention, value):
        kept[name] = dense.attend(attention, value)
        return kept[name]

    def patched(name, attention, value):
        output = dense.attend(dense.renormalised(attention, mask), value)
        return torch.where(own[:, None], kept[name], output) if ".1." in name else output

    doubled = {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}
    dense.densify(model, clean)(**rows(doubled, 0))
    expected = dense.densify(model, patched)(**rows(doubled, 1)).sample
    specs = [parse("clean"), parse(f"clean-into-R1S2@layers=1;queries={queries}")]
    with attend(model, specs, layout=layout, samples=[0, 1]):
        output = model(**inputs).sample[2:]
    assert dense.relative(output, expected) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_of_one_state_a_patch_at_all_sites_is_the_donor_bit_for_bit(name):
    # attention alone brings tokens together: with its outputs equal at every site, so is the forward
    model, layout = getattr(models, name)()
    inputs = getattr(models, f"{name}_inputs")(2)
    inputs = {key: value.repeat(5, *[1] * (value.dim() - 1)) for key, value in inputs.items()}
    specs = ["clean", "R1S2", "clean-into-R1S2", "R1S2-into-clean", "clean-into-clean"]
    with attend(model, [parse(spec) for spec in specs], layout=layout, samples=[0, 1]):
        output = dict(zip(specs, model(**inputs).sample.unflatten(0, (5, 2)), strict=True))
    assert torch.equal(output["clean-into-clean"], output["clean"])
    assert torch.equal(output["clean-into-R1S2"], output["clean"])
    assert torch.equal(output["R1S2-into-clean"], output["R1S2"])
    assert not torch.equal(output["R1S2"], output["clean"])


def test_lanes_may_come_in_any_order_and_each_half_takes_from_its_own():
    specs = ["clean", "R1S2", "R1S2-into-clean@layers=1", "clean-into-R1S2@layers=0;queries=image"]
    order = [3, 2, 0, 1]
    model, layout = models.sd3()
    inputs = models.sd3_inputs(16)
    with attend(model, [parse(spec) for spec in specs], layout=layout, samples=[0, 1]):
        straight = model(**inputs).sample.unflatten(0, (2, 4, 2))
    shuffled = {key: value.unflatten(0, (2, 4, 2))[:, order].flatten(0, 2) for key, value in inputs.items()}
    with attend(model, [parse(specs[k]) for k in order], layout=layout, samples=[0, 1]):
        other = model(**shuffled).sample.unflatten(0, (2, 4, 2))
    assert dense.relative(other, straight[:, order]) < 1e-6
    halves = {key: value.unflatten(0, (2, 8))[1] for key, value in inputs.items()}
    with attend(model, [parse(spec) for spec in specs], layout=layout, samples=[0, 1]):
        assert dense.relative(model(**halves).sample.unflatten(0, (4, 2)), straight[1]) < 1e-6


def test_a_patch_pays_attention_as_the_donor_does_at_what_it_takes():
    tensors = random_call(rows=2)
    record = ["mass-per-head", "words", "entropy", "sinks"]
    specs = [parse("clean"), parse("clean-into-topk3@queries=image;heads=1;strength=0.5")]
    _, taken = run(specs, tensors, samples=[0], record=record)
    attention = dense.weights(*tensors[:2])
    own = dense.renormalised(attention, attention >= attention.sort(-1, descending=True).values[..., 2:3])[1]
    image = torch.arange(26) < 20
    paid = own.clone()
    paid[1] = torch.where(image[:, None], 0.5 * attention[0, 1] + 0.5 * own[1], own[1])
    torch.testing.assert_close(taken["mass"][0, 1, 0, 0].double(), paid.mean(1), atol=1e-7, rtol=1e-5)
    words = paid[:, image][..., ~image].mean(0).mT
    torch.testing.assert_close(taken["word_map"][0, 1, 0].double(), words, atol=1e-6, rtol=1e-5)


def test_outside_of_its_steps_a_patch_is_its_host():
    model, layout = models.dit()
    inputs = models.dit_inputs(4)
    specs = [parse("clean"), parse("clean-into-R1S2@steps=1:2")]
    with attend(model, specs, layout=layout, samples=[0, 1]) as recorder:
        recorder.begin(0, 4)
        before = model(**inputs).sample[2:]
    with attend(model, parse("R1S2"), layout=layout):
        assert dense.relative(before, model(**rows(inputs, 1)).sample) < 1e-6


def test_a_patch_without_its_donor_and_other_nonsense_is_refused():
    with pytest.raises(SpecError, match="it looks at the lane of R1S2, and no lane of this batch is R1S2"):
        run([parse("clean"), parse("R1S2-into-clean")], random_call(rows=2), samples=[0])
    for text, words in (
        ("a-into-clean", "donor 'a': no intervention is written so"),
        ("clean-into-r4s32", "host 'r4s32': write it"),
        ("clean-into-clean-into-clean", "one donor and one host"),
        ("steps14-into-clean", "steps14: it runs in a call of its own"),
        ("clean-into-R4S32@keys=image", "takes layers, steps, pause, heads, queries, strength"),
    ):
        with pytest.raises(SpecError, match=words):
            parse(text)
    with pytest.raises(SpecError, match="radius R9"):
        parse("R9S0-into-clean").check(LAYOUT)
    with pytest.raises(SeamError, match=r"names steps: call recorder\.begin"):
        run([parse("clean"), parse("clean-into-topk3@steps=0:2")], random_call(rows=2), samples=[0])


def test_its_coordinates_say_that_a_patch_into_another_arm_acts_everywhere():
    alone = arm_coordinates(parse("R4S32-into-clean@layers=3;steps=2:4;strength=0.5"), 8)
    assert (alone["arm_start"], alone["arm_stop"], alone["arm_strength"]) == (2, 4, 0.5)
    assert (alone["arm_mask"], alone["arm_layers"]) == ("R4S32-into-clean@layers=3", "3")
    hosted = arm_coordinates(parse("clean-into-R4S32@layers=3;steps=2:4;strength=0.5"), 8)
    assert (hosted["arm_start"], hosted["arm_stop"], hosted["arm_strength"], hosted["arm_whole"]) == (0, 8, 1.0, True)
    assert (hosted["arm_mask"], hosted["arm_layers"]) == ("clean-into-R4S32@layers=3;steps=2:4;strength=0.5", "")
    assert '"patched": "layers=3;steps=2:4;strength=0.5"' in str(hosted["arm_parameters"])
