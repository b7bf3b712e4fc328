"""Execute the notebooks of docs/notebooks and write them with their outputs: `python -m tests.notebooks.execute [NAME ...]`.

Each runs in a folder of its own, in a fresh kernel of this environment. What would differ from one machine or one
execution to the next (times, ids, versions, memory addresses) is left out of the file.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
ENVIRONMENT = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}


def executed(path: Path) -> NotebookNode:
    """The notebook with fresh outputs. Raises CellExecutionError where a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, ENVIRONMENT):
        where = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=300, startup_timeout=180, record_timing=False, resources=where).execute()
    return tidy(notebook)


def tidy(notebook: NotebookNode) -> NotebookNode:
    """The same without what belongs to one machine or one execution."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python", "file_extension": ".py"},
    }
    for place, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{place}", {}
        for output in cell.get("outputs", []):
            output.pop("metadata", None)
            if output.output_type in ("display_data", "execute_result"):
                output.metadata = {}
    return notebook


def main(names: list[str]) -> None:
    """Execute and write all notebooks, or those of these names."""
    for path in [FOLDER / f"{name.removesuffix('.ipynb')}.ipynb" for name in names] or NOTEBOOKS:
        nbformat.write(executed(path), path)
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
