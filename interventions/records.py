"""What the seam can measure of attention, by name; the store, the command line and the seam agree on it here.

Names and sizes only, without torch: what they mean stands in `seam.measurements`.
"""

RECORDS = ("mass", "mass-per-head", "entropy", "sinks", "keys")
TOP = 5  # keys of most mass that "sinks" keeps: the dimension `rank` of a store
