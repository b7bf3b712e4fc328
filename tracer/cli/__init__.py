"""The `trace` command. It stands on top of the house and may import all of it; each command imports what it needs when
it is used, so that `trace --help` answers at once and an installation without torch can still read and analyse runs.
"""
