"""Rows of the table that are not measured every time are left out unless they are asked for."""

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without `table` in -m, deselect what is marked so."""
    if "table" in (config.option.markexpr or ""):
        return
    left_out = [item for item in items if item.get_closest_marker("table")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("table")]
