"""Run the notebooks over finished runs and leave the executed copies in figures/<scale>/notebooks; `make figures`.

Nothing is trained. The same records and versions give the same bytes, so the copies can be committed and read in a
browser.
"""

import argparse
import multiprocessing
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import nbformat
import papermill
from traitlets.config import Config

from mocalib.config import paths
from mocalib.paper.grids import SCALES
from mocalib.storage import files

REPORT = "11_report"  # reads what the others decided
TRAINING = ("01_quickstart", "14_explore", "train")  # these train, or need weights, which are not among the records
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}  # as committed, whichever ran it


def execute(name: str, scale: str) -> Path:
    """Run one notebook without training; write and return its executed copy. RuntimeError names a cell that fails."""
    source = paths.ROOT / "notebooks" / f"{name}.ipynb"
    known = papermill.inspect_notebook(str(source))
    parameters = {key: value for key, value in {"scale": scale, "train": False}.items() if key in known}
    with tempfile.TemporaryDirectory() as folder:
        # Sockets in a folder: of two kernels that start at once, one may take the other's port.
        config = Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})
        config.NotebookClient.extra_arguments = ["--IPKernelApp.log_level=50"]  # a kernel logs its own end as an error
        settings = {"kernel_name": "python3", "progress_bar": False, "coalesce_streams": True, "config": config}
        try:
            notebook = papermill.execute_notebook(str(source), f"{folder}/out.ipynb", parameters, **settings)
        except papermill.PapermillExecutionError as error:
            raise RuntimeError(f"{name}, cell {error.cell_index}: {error.ename}: {error.evalue}") from None
    target = paths.FIGURES / scale / "notebooks" / f"{name}.ipynb"
    files.write(target, nbformat.writes(without_traces(notebook)).encode())
    return target


def without_traces(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A notebook without times, versions, random ids, and names that a machine or an editor gave."""
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = {"tags": tags} if tags else {}
        if "injected-parameters" in tags:
            cell.id = "injected-parameters"
    return notebook


def all_notebooks(scale: str) -> list[Path]:
    """Run every notebook that needs records alone, two at a time, the report last; return the copies."""
    shutil.rmtree(paths.FIGURES / scale / "claims", ignore_errors=True)
    names = sorted(path.stem for path in (paths.ROOT / "notebooks").glob("*.ipynb"))
    others = [name for name in names if name not in (*TRAINING, REPORT)]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        return [*pool.map(partial(execute, scale=scale), others), execute(REPORT, scale)]


def main() -> None:
    """Run the notebooks of a scale; a failure ends with its message and exit code 1."""
    parser = argparse.ArgumentParser("python notebooks/execute.py", description=__doc__.splitlines()[0])
    parser.add_argument("scale", choices=SCALES)
    sys.stdout.reconfigure(errors="backslashreplace")  # of a path that the terminal cannot show
    try:
        print(*all_notebooks(parser.parse_args().scale), sep="\n")
    except RuntimeError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
