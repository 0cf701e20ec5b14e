"""Take from notebooks what running and editing them leaves: outputs, and all metadata but tags; `make strip`."""

import sys
from pathlib import Path

import nbformat
from execute import without_traces

from mocalib.storage import files

for path in map(Path, sys.argv[1:]):
    notebook = without_traces(nbformat.v4.reads(path.read_text("utf-8")))  # this reader gives no ids to older notebooks
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    files.write(path, f"{nbformat.v4.writes(notebook)}\n".encode())
