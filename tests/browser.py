"""Run All in a real JupyterLab in a real browser; `make browser`. Exit code 1 if something does not work.

A cell that fails, a figure that is missing, a slider that moves no picture, or a picture of a run that trains and stays
as it is. Not part of `make test`: it needs Chromium and the playwright package. Screenshots are for looking at.
"""

import argparse
import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat

from mocalib.config import paths

FIGURES = {  # that each notebook shows, beside widgets
    "01_quickstart": 6,
    "02_main_results": 10,
    "03_celeba_hq": 5,
    "04_latent_dimension": 1,
    "05_input_size": 1,
    "06_momentum": 2,
    "07_temperature": 1,
    "08_queue_size": 1,
    "09_latent_uniformity": 2,
    "10_throughput": 1,
    "11_report": 1,
    "12_convergence": 1,
    "14_explore": 0,
    "train": 7,
}
SECONDS = 600  # a notebook
TALL = {"width": 1280, "height": 9000}  # pixels: JupyterLab draws only the cells that are in sight


@contextlib.contextmanager
def lab(folder: Path) -> Iterator[tuple[str, str]]:
    """A JupyterLab on this machine that serves copies of the notebooks; its address and token."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root"]
    token = secrets.token_hex()
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}", "--log-level=CRITICAL"]
    places = {"MOCALIB_RUNS": str(folder / "runs"), "MOCALIB_FIGURES": str(folder / "figures")}
    (folder / "runs").mkdir()
    (folder / "runs" / "laptop").symlink_to(paths.RECORDS / "laptop")  # committed evidence is shown, not trained
    with subprocess.Popen(command, env=os.environ | places) as server:
        address = f"http://127.0.0.1:{port}"
        try:
            for _ in range(240):
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/api"):
                    break
                time.sleep(0.25)
            else:
                raise TimeoutError("JupyterLab did not start within a minute")
            yield address, token
        finally:
            server.terminate()


def start(page, address: str, token: str, path: Path) -> None:
    """Open a notebook and choose Run All Cells in the menu."""
    # A workspace of its own: in the default one Lab restores the tab of the notebook before, and runs that.
    page.goto(f"{address}/lab/workspaces/{path.stem}/tree/{path.name}?token={token}")
    page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=60_000)
    page.get_by_text("| Idle").first.wait_for(timeout=60_000)  # before that, Lab asks which kernel to take
    page.get_by_text("Run", exact=True).first.click()
    page.get_by_text("Run All Cells", exact=True).first.click()


def run_all(page, address: str, token: str, path: Path, screenshot: Path) -> None:
    """Start a notebook, and wait until the saved file says that all its cells have run."""
    start(page, address, token, path)
    deadline = time.monotonic() + SECONDS
    while not ended(path):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path.name} did not end within {SECONDS} s")
        page.wait_for_timeout(2_000)
        page.keyboard.press("Control+s")
    page.wait_for_timeout(2_000)
    page.screenshot(path=screenshot)


def slider_moves(page, folder: Path) -> bool:
    """Whether arrow keys on the third slider of 14_explore, the part of the way, change the picture below it."""
    shown, handle = page.locator("img.widget-image").first, page.locator(".noUi-handle").nth(2)
    before = shown.screenshot(path=folder / "14_explore_before.png")
    handle.focus()
    for _ in range(30):
        page.keyboard.press("ArrowRight")
    page.wait_for_timeout(5_000)
    return shown.screenshot(path=folder / "14_explore_after.png") != before


def picture_moves(page, address: str, token: str, path: Path, folder: Path) -> bool:
    """Whether the picture of a run changes while it trains, in a longer train.ipynb at `path`; then interrupt it."""
    notebook = nbformat.read(paths.ROOT / "notebooks" / "train.ipynb", as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("\nepochs = 2\n", "\nepochs = 1000\n")
    nbformat.write(notebook, path)
    start(page, address, token, path)
    shown = page.locator(".jp-CodeCell", has_text="mocalib.train(").locator(".jp-OutputArea img").first
    shown.wait_for(timeout=120_000)
    before = shown.screenshot(path=folder / "live_before.png")
    page.wait_for_timeout(20_000)
    after = shown.screenshot(path=folder / "live_after.png")
    trains = page.get_by_text("| Busy").first.is_visible()
    page.screenshot(path=folder / "live.png", clip={"x": 0, "y": 0, "width": 1280, "height": 6000})
    page.get_by_text("Kernel", exact=True).first.click()
    page.get_by_text("Interrupt Kernel", exact=True).first.click()
    page.get_by_text("| Idle").first.wait_for(timeout=60_000)
    return trains and after != before


def code(path: Path) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def errors(path: Path) -> list[str]:
    outputs = [output for cell in code(path) for output in cell.outputs]
    failed = [f"{output.ename}: {output.evalue}" for output in outputs if output.output_type == "error"]
    return failed + [output.text for output in outputs if output.get("name") == "stderr"]


def ended(path: Path) -> bool:
    try:
        return bool(errors(path)) or all(cell.execution_count for cell in code(path))
    except nbformat.reader.NotJSONError:  # JupyterLab is just writing it
        return False


def figures(path: Path) -> int:
    outputs = [output for cell in code(path) for output in cell.outputs]
    return sum(any(kind.startswith("image/") for kind in output.get("data", {})) for output in outputs)


def main() -> int:
    """Run the notebooks, print what was found, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--screenshots", type=Path, default=paths.FIGURES / "executed" / "browser", help="folder")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="executable (default: the one on PATH)")
    options = parser.parse_args()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        print("this needs playwright: pip install playwright; and Chromium, as `chromium` on PATH or --chromium")
        return 1
    options.screenshots.mkdir(parents=True, exist_ok=True)
    wrong = 0
    with (
        tempfile.TemporaryDirectory() as scratch,
        lab(Path(scratch)) as (address, token),
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
        for name, expected in FIGURES.items():
            copy = Path(shutil.copy(paths.ROOT / "notebooks" / f"{name}.ipynb", scratch))
            page = browser.new_page(viewport=TALL)
            run_all(page, address, token, copy, options.screenshots / f"{name}.png")
            found = errors(copy)
            wrong += bool(found) or figures(copy) != expected
            shown = f"{figures(copy)} of {expected} figures"
            print(f"{name}: {len(code(copy))} cells, {shown}, {found or 'no error'}", flush=True)
            if name == "14_explore":
                moves = {"a slider moves its picture": slider_moves(page, options.screenshots)}
        page, watched = browser.new_page(viewport=TALL), Path(scratch) / "watched.ipynb"
        moves["the picture of a run moves"] = picture_moves(page, address, token, watched, options.screenshots)
        print(moves)
        wrong += not all(moves.values())
        browser.close()
    print(f"screenshots: {options.screenshots}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
