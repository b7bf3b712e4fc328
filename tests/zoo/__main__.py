"""`python -m tests.zoo`: trace every pipeline of the zoo and write the tables of docs/models.md, and what of it
`trace models` shows."""

from __future__ import annotations

from tests.zoo import families
from tests.zoo.every import of_every
from tests.zoo.measure import measured
from tests.zoo.table import PAGE, written


def main() -> None:
    rows = of_every(measured, lambda name, row: f"{name}: {'refused' if row.state is None else 'traced'}")
    PAGE.write_text(written(PAGE.read_text(), rows))
    families.main()


if __name__ == "__main__":
    main()
