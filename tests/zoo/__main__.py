"""`python -m tests.zoo`: trace every pipeline of the zoo and write the tables of docs/models.md, and what of it
`trace models` shows."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.zoo import ZOO, families
from tests.zoo.measure import measured
from tests.zoo.table import PAGE, written
from tracer.quiet import quiet


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in sorted(ZOO):
            with quiet():
                rows.append(measured(ZOO[name], Path(folder)))
            print(f"{name}: {'refused' if rows[-1].state is None else 'traced'}", flush=True)
    PAGE.write_text(written(PAGE.read_text(), rows))
    families.main()


if __name__ == "__main__":
    main()
