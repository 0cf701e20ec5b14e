"""A picture of a run while it trains: its losses and some samples, drawn again and again into one output."""

import copy
import io
import time
from collections.abc import Callable

import torch
from IPython import get_ipython
from IPython.display import Image, display
from matplotlib.figure import Figure

from mocalib.data.arrays import as_uint8
from mocalib.figures.base import show
from mocalib.figures.curves import LOGGED, PLACES
from mocalib.training.loop import AverageMeter, Callbacks
from mocalib.training.step import Trainer

SECONDS, SHARE = 5.0, 0.05  # at least between two pictures; of the time, at most for drawing


class Live(Callbacks):
    """Draws from the first step to the last, in a notebook's kernel only. If that fails, the run goes on without."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.on, self.due, self.output = trainer, hasattr(get_ipython(), "kernel"), 0.0, None
        self.lines, self.points = [], []  # of the log; means since its last line, as lines may be an hour apart

    def on_line(self, line: dict[str, float]) -> None:
        self.lines.append(line)

    def on_step(self, step: int, state: Callable[[], dict]) -> None:
        started, png = time.monotonic(), io.BytesIO()
        if not self.on or (started < self.due and step < self.trainer.steps):
            return
        try:
            (meter := AverageMeter()).load(state()["meters"]["line"])  # a copy, since reading sets it back
            self.points.append({"step": step, **meter.read()})
            self.figure().savefig(png, dpi=110)
            self.output = self.output or display(display_id=True)
            self.output.update(Image(png.getvalue()))
        except Exception as error:  # whatever it is, it must not end a training of hours
            print(f"the run goes on, but is not drawn any more: {error!r}", flush=True)
            self.on = False
        self.due = time.monotonic() + max(SECONDS, (time.monotonic() - started) / SHARE)

    def figure(self) -> Figure:
        """Up to four terms, light since the log's last line; and samples, decoded by a copy of the nets."""
        figure = Figure(figsize=(9, 4))  # pyplot does not know it, so it needs no closing
        axes = figure.subplot_mosaic("01s;23s", width_ratios=(1, 1, 1.4), subplot_kw={"xlabel": "steps"})
        nets = copy.deepcopy(self.trainer.objective).float().eval()
        with torch.no_grad():
            x = nets.decode(nets.prior(25, torch.Generator().manual_seed(0)).to(self.trainer.device)).cpu()
        show(axes.pop("s"), as_uint8(x).unflatten(0, (5, 5)), "samples")
        seen = dict.fromkeys(name for row in self.lines + self.points for name in row if name not in PLACES)
        for ax, term in zip(axes.values(), sorted(seen, key=lambda name: name not in LOGGED)):  # MoCA's four first
            for rows, style in ((self.points, {"color": "C5"}), (self.lines, {"color": "C0"})):
                known = [row for row in rows if term in row]
                ax.plot([row["step"] for row in known], [row[term] for row in known], marker=".", **style)
            ax.set_title(LOGGED.get(term, term.replace("_", " ")).replace("\n", " "), fontsize=8)
        return figure
