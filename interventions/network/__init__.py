"""What changes of the network do to it: forwards replaced, weights converted, blocks that reuse what they gave.

`interventions.changes` has the values and their grammar, which need no torch; what needs it is here, and is imported
when a forward is made.
"""
