"""An arm: the network without one of its blocks, as an ablation, a pruned network or a skipping cache has it."""

from contextlib import contextmanager

import tracer

BLOCK = 2


@contextmanager
def without_a_block(network):
    """The block hands on the tokens that it was given; entered before every forward of the arm and left after it."""
    block = network.transformer_blocks[BLOCK]
    block.forward = lambda tokens, *_, **__: tokens
    try:
        yield
    finally:
        del block.forward


NO_BLOCK = tracer.arm(f"no-block-{BLOCK}", context=without_a_block)
