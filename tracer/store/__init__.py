"""The trace store: one directory a run or a sweep, written unit by unit so that a crash loses at most the unit in work.

`create` makes one, `Writer` fills it, `open_run` and `open_sweep` read it, `verify` checks it and changes nothing,
`repair` puts right what can be and takes out the rest, `finalize` ends a run (tidied and verified);
`write_scores` puts scores of its pictures beside a run. What a run may hold stands in `RECORDS`. The layout on disk and
the order of writes are described in docs/schema.md. Local POSIX file systems only. No torch: whoever has a run can read
it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
