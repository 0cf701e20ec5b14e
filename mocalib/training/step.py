"""One training step: forward and backward passes, Adam, averages and queue. A GPU replays it as a CUDA graph.

A step never waits for the device. B batch, C H W image, N normal numbers an image.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mocalib.methods import Objective, Turn

WARM_UP = 3  # steps before a capture, as PyTorch requires: they compile, and choose cuDNN's algorithms

Optimizers = dict[str, torch.optim.Adam]


class Step:
    """A turn of a step, launched operation by operation: the reference, and what a CPU runs."""

    def __init__(
        self, objective: Objective, turn: Turn, optimizers: Optimizers, progress: Tensor, compile: bool = False
    ) -> None:
        self.objective, self.turn, self.progress = objective, turn, progress
        self.optimizers = [optimizers[name] for name in turn.updates]
        self.loss = torch.compile(objective.loss, dynamic=False, fullgraph=True) if compile else objective.loss

    def __call__(self, x: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Train on images B C H W with noise B N; return the terms to log."""
        out = self.loss(self.turn.name, x, noise)
        out.total.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        self.objective.zero_grad(set_to_none=True)  # now, so that the next forward pass can use their memory
        self.objective.after(self.turn.name, out, self.progress)
        return out.terms


class Replayed(Step):
    """A Step that is recorded as a CUDA graph at its first call, and replayed from then on with a single launch.

    A graph reads and writes fixed addresses. So images and noise are copied into its own tensors, learning rate and
    progress are tensors, and the next call overwrites the terms that it returns.
    """

    replay: Callable[[], None] | None = None

    def __call__(self, x: Tensor, noise: Tensor) -> dict[str, Tensor]:
        if self.replay is None:
            self.x, self.noise = x.clone(), noise.clone()
            launch = partial(super().__call__, self.x, self.noise)
            with unchanged(self.objective, self.optimizers):
                warm_up(launch)
            self.terms, self.replay = record(launch)
        self.x.copy_(x)
        self.noise.copy_(noise)
        self.replay()
        return self.terms


class Trainer:
    """One step of a run: the turns that are due, with its learning rate, progress and noise."""

    def __init__(
        self, objective: Objective, steps: int, device: torch.device, compile: bool = False, seed: int = 0
    ) -> None:
        self.objective, self.steps, self.device, self.seed = objective, steps, device, seed
        self.graphed = compile and device.type == "cuda"
        self.optimizers = make_optimizers(objective)
        self._place_rates()
        self.progress = torch.zeros((), dtype=torch.float64, device=device)
        if compile:
            torch.compiler.reset()  # it keeps 8 compilations of one function, and a process may train more runs
        kind = Replayed if self.graphed else Step
        self.turns = {
            turn.name: kind(objective, turn, self.optimizers, self.progress, compile) for turn in objective.turns
        }

    def step(self, step: int, x: Tensor, rate: float) -> list[tuple[str, dict[str, Tensor]]]:
        """Train on images B C H W; return each turn that was due with its terms."""
        set_rate(self.optimizers, rate)
        self.progress.fill_(step / self.steps)
        names = [turn.name for turn in self.objective.turns if due(turn, step, self.steps)]
        noise = self.noise(step, x)
        return [(name, self.turns[name](x, noise)) for name in names]

    def noise(self, step: int, x: Tensor) -> Tensor:
        """Normal numbers B N that depend on seed and step only, so that a resumed run draws the same.

        All turns of a step share them. Drawn here, they keep generators out of compiled code and CUDA graphs.
        """
        if not self.objective.noise:
            return x.new_empty(len(x), 0)
        [seed] = np.random.SeedSequence([self.seed, step]).generate_state(1, np.uint64)
        generator = torch.Generator(x.device).manual_seed(int(seed >> 1))
        return torch.randn(len(x), self.objective.noise, generator=generator, dtype=x.dtype, device=x.device)

    def state(self) -> dict:
        """Everything that `load` needs, except the step."""
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        return {"objective": self.objective.state_dict(), "optimizers": optimizers}

    def load(self, state: dict) -> None:
        """Load a state; it may come from another kind of device."""
        self.objective.load_state_dict(state["objective"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self._place_rates()

    def _place_rates(self) -> None:
        """Make the learning rate a tensor for a graph to read, or else a number, exact in float64."""
        for optimizer in self.optimizers.values():
            for setting in optimizer.param_groups:
                rate = float(setting["lr"])
                setting["lr"] = torch.tensor(rate, device=self.device) if self.graphed else rate
                setting["capturable"] = self.graphed


def due(turn: Turn, step: int, steps: int) -> bool:
    """Whether a turn is taken at a step."""
    return step % turn.every == 0 and turn.start <= step / steps < turn.stop


def check_turns(objective: Objective, steps: int) -> None:
    """Raise ValueError for a turn that a training of `steps` steps would never take."""
    for turn in objective.turns:
        if not any(due(turn, step, steps) for step in range(steps)):
            raise ValueError(
                f"{objective.config} would never take its turn {turn.name!r} in {steps} steps: it is for the part from "
                f"{turn.start:g} to {turn.stop:g} of training; train longer, or change that part"
            )


def warm_up(step: Callable[[], object]) -> None:
    """Take a few steps on a separate stream, as a capture requires."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*capturable")  # Adam warns as there is no graph yet
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(stream)


def record(step: Callable[[], dict[str, Tensor]]) -> tuple[dict[str, Tensor], Callable[[], None]]:
    """Record a step as a CUDA graph, without computing it; return its terms and the function that replays it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
        terms = step()
    return terms, graph.replay


@contextlib.contextmanager
def unchanged(objective: Objective, optimizers: list[torch.optim.Adam]) -> Iterator[None]:
    """Undo all training inside, in place: a graph knows tensors by their addresses."""
    weights = objective.state_dict()
    kept = {name: value.clone() for name, value in weights.items()}
    moments = {id(value): value.clone() for value in _moments(optimizers)}
    yield
    for name, value in weights.items():
        value.copy_(kept[name])
    for value in _moments(optimizers):
        value.copy_(moments[id(value)]) if id(value) in moments else value.zero_()  # Adam makes new ones as zeros


def _moments(optimizers: list[torch.optim.Adam]) -> list[Tensor]:
    return [value for optimizer in optimizers for state in optimizer.state.values() for value in state.values()]


def make_optimizers(objective: Objective) -> Optimizers:
    """One Adam for each group; every trainable parameter must be in exactly one."""
    groups = objective.groups()
    listed = [id(p) for group in groups.values() for p in group.parameters]
    trainable = {id(p) for p in objective.parameters() if p.requires_grad}
    if len(listed) != len(set(listed)) or set(listed) != trainable:
        raise ValueError(f"{type(objective).__name__}.groups must list every trainable parameter exactly once")
    return {
        name: torch.optim.Adam([{"params": group.parameters, "rate": group.rate}], betas=group.betas, fused=True)
        for name, group in groups.items()
    }


def set_rate(optimizers: Optimizers, rate: float) -> None:
    """Set the learning rate of every group to its own multiple of `rate`."""
    for optimizer in optimizers.values():
        for setting in optimizer.param_groups:
            own = rate * setting["rate"]
            if isinstance(setting["lr"], Tensor):
                setting["lr"].fill_(own)
            else:
                setting["lr"] = own
