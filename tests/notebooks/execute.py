"""Execute the notebooks of docs/notebooks and write them with their outputs.

    python -m tests.notebooks.execute [NAME ...]

Each runs in a folder of its own, in a fresh kernel of this environment. What would differ from one machine or one
execution to the next (times, ids, versions, how printing was cut) is left out of the file, and so are live widgets:
what stands beside them is shown where there is no kernel.
"""

from __future__ import annotations

import base64
import io
import os
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
INLINE = "module://matplotlib_inline.backend_inline"
ENVIRONMENT = {"MPLBACKEND": INLINE, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
TORCHAO = {"DIFFUSERS_VERBOSITY": "error", "TORCH_LOGS": "-torch.utils._pytree"}
"""Where torchao is installed, diffusers imports it with every model, and both then warn of each other's age."""
WIDGET = "application/vnd.jupyter.widget-view+json"
COLOURS = 256


def executed(path: Path) -> NotebookNode:
    """The notebook with fresh outputs. Raises CellExecutionError where a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, ENVIRONMENT | TORCHAO):
        how = {"timeout": 600, "startup_timeout": 180, "record_timing": False, "store_widget_state": False}
        NotebookClient(notebook, **how).execute(cwd=folder)
    return tidy(notebook)


def tidy(notebook: NotebookNode) -> NotebookNode:
    """The same without what belongs to one machine or one execution, its pictures small."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python", "file_extension": ".py"},
    }
    for place, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{place}", {}
        if "outputs" in cell:
            cell.outputs = joined(cell.outputs)
    return notebook


def joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Outputs with what one stream printed in pieces as one, and without widgets."""
    result: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and result and result[-1].get("name") == output.name:
            result[-1].text += output.text
            continue
        if "data" in output:
            output.metadata = {}
            if output.data.pop(WIDGET, None):
                del output.data["text/plain"]  # of the whole tree, with its times and ids
            if "image/png" in output.data:
                output.data["image/png"] = small(output.data["image/png"])
        result.append(output)
    return result


def small(png: str) -> str:
    """A PNG in base64 as one of few colours."""
    picture = Image.open(io.BytesIO(base64.b64decode(png)))
    if picture.mode == "P":
        return png
    buffer = io.BytesIO()
    picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def main(names: list[str]) -> None:
    """Execute and write all notebooks, or those of these names."""
    for path in [FOLDER / f"{name.removesuffix('.ipynb')}.ipynb" for name in names] or NOTEBOOKS:
        nbformat.write(executed(path), path)
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
