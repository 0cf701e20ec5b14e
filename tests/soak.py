"""Random faults into a grid of runs, for as long as asked: nothing may be lost, and no number may be wrong.

A sweep of six methods runs again and again, here or on a Ray cluster of two nodes, while workers, sweeps and nodes are
killed, disks are full, other sweeps share the grid, and files are cut or changed. What a sweep then complains of is
mended as its message says, and it is started again. In the end every record and weight must equal that of the same run
to which nothing happened, bit for bit. Spared are logs, which no number comes from, and single pixels of decoded
images, which are only found by `python -m mocalib verify`.

    python tests/soak.py --minutes 30 [--seed 0] [--record data/soak.json]
"""

import argparse
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

SCRATCH = Path(os.environ.get("MOCALIB_SOAK") or tempfile.mkdtemp(prefix="mocalib-soak-"))  # given to its processes
TESTS = Path(__file__).resolve().parent
os.environ |= {
    "MOCALIB_SOAK": str(SCRATCH),
    "MOCALIB_DATA": str(SCRATCH / "data"),
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))

import torch
import victims

from mocalib import Compute, MoCA, Pool, RunConfig, Scoring
from mocalib.config import paths
from mocalib.config.methods import VAE, WAEGAN, TwoStageVAE
from mocalib.storage import environment, files
from mocalib.storage.run import open_run
from mocalib.sweep.pool import LOG
from mocalib.sweep.run import sweep
from mocalib.sweep.verify import verify

NET = {"limit": 512, "width": 4, "blocks": 1, "latent_dim": 8, "batch_size": 32, "epochs": 6}
QUEUE = MoCA(temperature=0.1, momentum=0.9, queue_size=100, weight=1.0)
GRID = [
    RunConfig(**NET, objective=QUEUE),
    RunConfig(**NET, objective=QUEUE, seed=1, keep_epochs=(0, 2)),
    RunConfig(**NET | {"model": "hq", "blocks": 2}, objective=QUEUE),
    RunConfig(**NET, objective=VAE("learned")),
    RunConfig(**NET, objective=WAEGAN(pretraining=0.2)),
    RunConfig(**NET, objective=TwoStageVAE(first_stage=0.5, second_width=16)),
]
NAMES = ("config.json", "metrics.jsonl", "scores.json", "samples.png", "latents.npz")
STARTS = 30  # of one grid, after which its unfinished runs are lost
WAYS_OUT = {  # what a message says that should be removed -> how it is found there
    "run": r"or move (\S+) away and run it again",
    "checkpoints": r"(\S+): checkpoint.pt and previous.pt do not load",
    "images": r"images in (\S+) are damaged",
    "config": r"(\S+)/config.json: ",
    "other": r"(\S+) has another config",
    "data": r"or remove (\S+) to train on the new",
    "how": r"(\S+)/\w+.pt has another environment",
    "weights": r"(\S+)/[\w-]+.pt(?: does not load|:? is damaged|: )",
}


def sweep_here(folder: Path, engine: str, address: str | None) -> None:
    compute = Compute(threads=1, checkpoint_seconds=0.0)
    sweep(GRID, folder, compute, Scoring(n=100), Pool(engine, jobs=2, address=address))


class Soak:
    """One grid at a time, and what happened to it."""

    def __init__(self, seed: int, whole: Path) -> None:
        self.moments, self.whole = random.Random(seed), whole
        self.faults, self.answers = Counter(), Counter()
        self.finished = self.lost = self.wrong = 0
        self.unexplained: list[str] = []

    def grid(self, folder: Path, engine: str, end: float) -> None:
        """Sweep a grid until it is finished, with faults until the time is up, and compare it."""
        cluster = victims.cluster() if engine == "ray" else None
        try:
            for start in range(STARTS):
                quiet = time.monotonic() > end or start > STARTS // 2
                if self._start(folder, engine, cluster, quiet) and self._verified(folder):
                    break
        finally:
            if cluster:
                cluster.shutdown()
        for config in GRID:
            self._compare(folder / config.name)

    def _start(self, folder: Path, engine: str, cluster: object, quiet: bool) -> bool:
        """One start of the sweep, and what befalls it; whether all runs are finished then."""
        how = (folder, engine, cluster.address if cluster else None)
        limited = not quiet and self.moments.random() < 0.15
        work = (victims.with_files_below, 30_000, sweep_here) if limited else (sweep_here,)
        faults = [*3 * [self._kill_worker], *2 * [self._kill_sweep], self._second_sweep, self._lose_node]
        faults = faults if engine == "ray" else faults[:-1]
        process, pipe = victims.begin(*work, *how)
        while not quiet and not limited and process.is_alive():
            process.join(self.moments.uniform(0.3, 5.0))
            if process.is_alive() and self._alive(folder):  # else nothing is at stake yet
                self.moments.choice(faults)(folder, process, cluster)
        _, told = victims.end(process, pipe)
        if told == "killed":
            time.sleep(1.0)  # its workers see that it is gone
            for _ in range(self.moments.randrange(4)):
                self._damage(folder)
        elif told:
            self._mend(told)
        return not told

    def _alive(self, folder: Path) -> list[int]:
        """The processes that runs are in now, by the last starts in their logs."""
        starts = [victims.processes(path) for path in folder.glob(f"*/{LOG}")]
        return sorted(pid for pid in {int(of[-1]) for of in starts if of} if _is_ours(pid))

    def _kill_worker(self, folder: Path, process: object, cluster: object) -> None:
        os.kill(self.moments.choice(self._alive(folder) or [process.pid]), signal.SIGKILL)
        self.faults["worker killed"] += 1

    def _kill_sweep(self, folder: Path, process: object, cluster: object) -> None:
        process.kill()
        process.join()
        self.faults["sweep killed"] += 1

    def _second_sweep(self, folder: Path, process: object, cluster: object) -> None:
        second, pipe = victims.begin(sweep_here, folder, "local", None)
        self.faults["second sweep"] += 1
        second.join(self.moments.uniform(2.0, 12.0))
        second.kill()
        victims.end(second, pipe)

    def _lose_node(self, folder: Path, process: object, cluster: object) -> None:
        cluster.remove_node(cluster.second, allow_graceful=False)
        self.faults["node lost"] += 1
        cluster.second = cluster.add_node(**victims.NODE)

    def _damage(self, folder: Path) -> None:
        """Cut a file, or change one byte of it, while no sweep runs."""
        spared = (".lock", LOG, "timing.jsonl")
        names = [path for path in folder.rglob("*") if path.is_file() and path.name not in spared]
        images = list(paths.CACHE.glob("*/train.npy"))
        if not names:
            return
        path = self.moments.choice(names if self.moments.random() < 0.9 else images or names)
        content = bytearray(path.read_bytes())
        if not content:
            return
        place = self.moments.randrange(len(content))
        if path in images or self.moments.random() < 0.5:
            path.write_bytes(content[:place])
            self.faults[f"{path.name} cut"] += 1
        else:
            content[place] ^= self.moments.randrange(1, 256)
            path.write_bytes(content)
            self.faults[f"{path.name} changed"] += 1

    def _mend(self, told: str) -> None:
        """Remove what the message says; what explains itself with space on the disk or another start needs nothing."""
        found = False
        for way, pattern in WAYS_OUT.items():
            for place in re.findall(pattern, told):
                if not Path(place).is_relative_to(SCRATCH):
                    continue
                found = True
                self.answers[way] += 1
                shutil.rmtree(place, ignore_errors=True)
        if "cannot be written; free some space" in told:
            found = True
            self.answers["space"] += 1
            self.faults["disk full"] += 1
        if not found:
            self.answers["other"] += 1
            self.unexplained.append(told[:2_000])

    def _verified(self, folder: Path) -> bool:
        """Whether verifying finds nothing; what it finds is removed, and made again."""
        damaged = [path for path, wrong in verify([folder / config.name for config in GRID]) if wrong]
        for path in damaged:
            self.answers["verify"] += 1
            shutil.rmtree(path)
        return not damaged

    def _compare(self, directory: Path) -> None:
        if not (directory / "manifest.json").exists() or not (directory / "scores.json").exists():
            self.lost += 1
            return
        self.finished += 1
        whole = self.whole / directory.name
        same = all((directory / name).read_bytes() == (whole / name).read_bytes() for name in NAMES)
        for path in whole.glob("*.pt"):
            one, other = (files.read_tensors(found)["objective"] for found in (path, directory / path.name))
            same &= all(torch.equal(one[name], other[name]) for name in one)
        open_run(directory).verify()
        self.wrong += not same


def _is_ours(pid: int) -> bool:
    """Whether a process is there and is a worker of this package: numbers are given again."""
    try:
        return b"multiprocessing" in (text := Path(f"/proc/{pid}/cmdline").read_bytes()) or text.startswith(b"ray::")
    except OSError:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, help="write the result to this file")
    options = parser.parse_args()
    code, _ = victims.in_a_process(sweep_here, SCRATCH / "whole", "local", None)
    assert code == 0, "the grid does not finish by itself"
    soak, start = Soak(options.seed, SCRATCH / "whole"), time.monotonic()
    end = start + 60 * options.minutes
    for count in range(10**6):
        if time.monotonic() > end:
            break
        engine = "ray" if count % 4 == 3 else "local"
        soak.grid(SCRATCH / f"grid-{count}", engine, end)
        print(f"{(time.monotonic() - start) / 60:5.1f} min: {engine}, {sum(soak.faults.values())} faults so far, "
              f"{soak.finished} runs finished, {soak.lost} lost, {soak.wrong} wrong", flush=True)  # fmt: skip
        if soak.wrong or soak.lost:
            print(f"to be looked at: {SCRATCH / f'grid-{count}'}")
            break
        shutil.rmtree(SCRATCH / f"grid-{count}", ignore_errors=True)
    record = {
        "minutes": round((time.monotonic() - start) / 60, 1),
        "seed": options.seed,
        "faults": dict(sorted(soak.faults.items())),
        "faults_injected": sum(soak.faults.values()),
        "runs_finished": soak.finished,
        "runs_lost": soak.lost,
        "wrong_results": soak.wrong,
        "answers": dict(sorted(soak.answers.items())),
        "messages_without_a_way_out": len(soak.unexplained),
        "environment": environment.describe(torch.device("cpu")) | {"processor": environment.processor()},
    }
    print(files.json_bytes(record).decode(), *soak.unexplained, sep="\n")
    if options.record:
        files.write_json(options.record, record)
    print(f"faults injected: {record['faults_injected']}, runs finished: {soak.finished}, runs lost: {soak.lost}, "
          f"wrong results: {soak.wrong}")  # fmt: skip
    if soak.lost or soak.wrong or soak.unexplained:
        return 1
    shutil.rmtree(SCRATCH, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
