"""From a recorded run to labelled numbers: every measure is a function of a run, with its table, sentence and figure.

`analysis.growth(run)` returns an `xarray.Dataset`; `analysis.growth.table(dataset)`, `.sentence(dataset)` and
`.figure(dataset)` present it; `analysis.MEASURES` lists them all. Stores are all that is read: nothing here imports
torch, and nothing heavy is imported before it is used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
