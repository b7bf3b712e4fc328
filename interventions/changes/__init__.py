"""Changes of the network itself: caches, quantisation, a second network, any context around its forward, fewer steps.

The masks of `interventions.families` act at the attention seam, many lanes in one batch. A change acts around the whole
forward, in a call of its own, with the seam set aside. `base` says what a change is; every kind is one file.
"""
