"""The command line. Each command imports only what it needs, so `--help` is quick."""

import argparse
import signal
import sys
from dataclasses import replace
from pathlib import Path

from mocalib.config import paths
from mocalib.config.checks import check
from mocalib.config.compute import ENGINES, Compute, Pool, Scoring
from mocalib.config.run import FEATURES, PRIOR, SAMPLERS, RunConfig
from mocalib.paper import experiments
from mocalib.paper.grids import SCALES
from mocalib.paper.scale import widened
from mocalib.training.interrupt import terminate


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except (ValueError, OSError, RuntimeError) as error:  # the user can fix these: no traceback
        print(f"mocalib: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stopped:
        print("mocalib:", str(stopped) or "interrupted; run the same command again to resume", file=sys.stderr)
        return getattr(stopped, "code", 130)


def _run(options: argparse.Namespace) -> int:
    from mocalib.storage.run import read_config
    from mocalib.sweep.run import run_one

    for directory in options.directories:
        config = read_config(directory)
        config = replace(config, root=options.root) if options.root else config
        place = options.runs / config.name if options.runs else directory
        run = run_one(config, place.parent, _compute(options), _scoring(options), directory=place)
        _print(run.directory, run.scores)
    return 0


def _sweep(options: argparse.Namespace) -> int:
    from mocalib.sweep.run import sweep

    if not (configs := _configs(options)):
        print("no run is in part {}/{}".format(*options.part))
        return 0
    scale = SCALES[options.scale]
    pool = Pool(options.engine, options.jobs, options.gpus, options.retries, options.address)
    scoring = _scoring(options, scale.features, scale.n_generated)
    for run in sweep(configs, _folder(options), _compute(options), scoring, pool):
        _print(run.directory, run.scores)
    return 0


def _plan(options: argparse.Namespace) -> int:
    from mocalib.paper import results
    from mocalib.sweep import plan

    configs, folder, compute = _configs(options), _folder(options), _compute(options)
    if options.commit and (options.names, options.runs, options.seeds, options.width) != (["all"], None, None, 0):
        raise ValueError(f"--commit takes the whole grid: {paths.SHELL} plan all --scale SCALE --commit")
    if options.commit:
        print(results.commit(options.scale))
        return 0
    states = [plan.state(config, folder) for config in configs]
    print(*(f"{state:<8}  {config.name}" for state, config in zip(states, configs)), sep="\n")
    print(f"{len(states)} runs, {states.count('finished')} of them finished")
    todo = [config for state, config in zip(states, configs) if state != "finished"]
    return plan.measured(todo, compute) if options.measure else 0


def _sample(options: argparse.Namespace) -> int:
    from mocalib.data.arrays import save_images
    from mocalib.evaluation import generate
    from mocalib.storage.run import open_run

    n = check("n", 1_000 if options.n is None else options.n, int, {"low": 1})
    if options.reference:
        images = generate.dataset_of(open_run(options.run)).test.images
    else:
        net = generate.load(options.run, options.epoch, options.device)
        z = net.encode(options.reconstruct) if options.reconstruct else net.prior(n, options.seed)
        images = generate.decode_uint8(net, z)
    print(save_images(images[: options.n], options.out))
    return 0


def _score(options: argparse.Namespace) -> int:
    from mocalib.evaluation.evaluate import score_folder

    config = RunConfig(options.dataset, options.root, options.size, options.crop, model="hq")
    scoring = Scoring(options.features or "", weights=options.weights or "")
    _print(options.folder, score_folder(options.folder, config, scoring, options.device))
    return 0


def _list(options: argparse.Namespace) -> int:
    from mocalib.paper import results

    print(results.listed(options.folder).to_string(na_rep="", float_format="{:.4g}".format))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from mocalib.sweep.verify import verify

    read = damaged = 0
    for _, wrong in verify(options.directories):
        read, damaged = read + 1, damaged + bool(wrong)
        if wrong:
            print(wrong, flush=True)
    if damaged:
        print("restore what is named above, or move it away, then start again")
    print(f"{read} checked, {damaged} damaged")
    return 1 if damaged else 0


def _configs(options: argparse.Namespace) -> list[RunConfig]:
    """The runs of the named experiments that `--part` selects, each once; `--seeds` overrides the scale's seeds."""
    scale, found = options.scale, []
    for name in options.names:
        if name == "all":
            found += experiments.everything(scale, options.seeds)
        elif options.seeds is None:
            found += experiments.listed(scale)[name]
        else:
            found += experiments.configs(name, scale, options.seeds)
    if not found:
        raise ValueError(f"{', '.join(options.names)}: not run at {scale} scale")
    i, n = options.part
    found = list(dict.fromkeys(widened(found, options.width)))
    return found[i - 1 :: n]  # every n-th run: neighbours in the list cost about the same


def _folder(options: argparse.Namespace) -> Path:
    own = widened(SCALES[options.scale], options.width) == SCALES[options.scale]
    return options.runs or paths.RUNS / (options.scale if own else "custom")


def _compute(options: argparse.Namespace) -> Compute:
    return Compute(options.device, options.threads, options.compile, options.checkpoint_seconds)


def _scoring(options: argparse.Namespace, features: str = "", n: int = Scoring.n) -> Scoring:
    """The options given; the scale's values for the others."""
    n = n if options.n is None else options.n
    return Scoring(options.features or features, n, options.weights or "", options.sampler)


def _print(directory: Path, scores: list[dict]) -> None:
    print(directory)
    for row in scores:
        against = f" | {row['n_generated']} against {row['n_reference']} {row['split']}" if row["n_reference"] else ""
        print(f"  {row['metric']:<22} {row['sampler']:<15} {row['value']:>12.4f}{against}")


def _parser() -> argparse.ArgumentParser:
    name, about = "python -m mocalib", "Momentum Contrastive Autoencoder."
    parser = argparse.ArgumentParser(name, description=about, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, function: object, about: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=about, description=about, parents=parents, allow_abbrev=False)
        added.set_defaults(command=function)
        return added

    grid, device, features, compute, scoring = _shared_options()
    one = command("run", _run, "train and score the run in each directory; finished ones are skipped", compute, scoring)
    one.add_argument("directories", nargs="+", type=Path, metavar="DIR", help="run directories")
    one.add_argument("--root", metavar="FOLDER", help="where the runs' own images are now, if they were moved")
    about = "train and score every run of the named experiments; interrupted runs resume"
    many = command("sweep", _sweep, about, grid, compute, scoring)
    many.add_argument("--engine", default="local", choices=ENGINES, help="processes here, or a Ray cluster")
    many.add_argument("--jobs", type=int, help="runs at a time (local: 1, or 0 for one per core; ray: all that fit)")
    many.add_argument("--gpus", type=float, help="GPUs per run: 1, or a fraction (0.5: two runs share one)")
    many.add_argument("--retries", type=int, default=Pool.retries, help="restarts after deaths without progress (2)")
    many.add_argument("--address", help="Ray cluster (default: RAY_ADDRESS, else the one running here, else a new one)")
    plan = command("plan", _plan, "list the named experiments' runs and their states; run nothing", grid, compute)
    plan.add_argument("--measure", action="store_true", help="take a few steps of each net; print hours and bytes")
    plan.add_argument("--commit", action="store_true", help="write the scale's grid to its grid.json, for claims")
    found = command("list", _list, "a line for each run of a folder: state, what differs, scores")
    found.add_argument("folder", nargs="?", type=Path, default=paths.RUNS / "custom", help="(data/runs/custom)")
    _sample_options(command("sample", _sample, "write images of a trained run as PNG files", device))
    about = "score a folder of anyone's images against the test split of a dataset"
    score = command("score", _score, about, device, features)
    score.add_argument("folder", type=Path, metavar="FOLDER", help="folder or zip of images")
    score.add_argument("--dataset", required=True, help="dataset whose test split is the reference")
    score.add_argument("--root", default="", help="the dataset's folder or zip (default: data/raw/<dataset>)")
    score.add_argument("--size", type=int, default=0, help="pixels a side (default: the dataset's own)")
    score.add_argument("--crop", type=int, default=0, help="square that is cut out of the dataset's images first")
    verify = command("verify", _verify, "check the given runs, or all runs, caches and weights; name damaged files")
    verify.add_argument("directories", nargs="*", type=Path, metavar="DIR", help="run directories, or folders of them")
    return parser


def _sample_options(sample: argparse.ArgumentParser) -> None:
    sample.add_argument("run", type=Path, metavar="RUN", help="run directory with weights")
    sample.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder")
    sample.add_argument("--n", type=int, help="number of images (default: 1000 samples, or all of a folder or split)")
    sample.add_argument("--seed", type=int, default=0, help="seed of the samples (0)")
    sample.add_argument("--epoch", type=int, help="weights kept at this epoch (default: the last)")
    instead = sample.add_mutually_exclusive_group()
    instead.add_argument("--reconstruct", type=Path, metavar="FOLDER", help="encode and decode these images instead")
    instead.add_argument("--reference", action="store_true", help="write the run's decoded test split instead")


def _shared_options() -> tuple[argparse.ArgumentParser, ...]:
    """Options that several commands take: which runs, where and how to compute them, and how to score them."""
    grid, device, features = (argparse.ArgumentParser(add_help=False) for _ in range(3))
    names = (*experiments.NAMES, "all")
    grid.add_argument("names", nargs="+", metavar="NAME", choices=names, help=", ".join(names))
    grid.add_argument("--scale", default="laptop", choices=SCALES, help="scale of the grid (laptop)")
    grid.add_argument("--seeds", type=int, metavar="N", help="the first N seeds (default: the scale's own)")
    grid.add_argument("--width", type=int, default=0, help="of all nets (default: the scale's own); goes to custom")
    grid.add_argument("--part", type=_part, default="1/1", metavar="i/n", help="the i-th of n parts of the runs")
    device.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    about = "features for the distances (default: classifier if the dataset has labels)"
    features.add_argument("--features", choices=(*FEATURES, "none"), help=about)
    features.add_argument("--weights", type=Path, help="file of the features' weights")
    compute = argparse.ArgumentParser(add_help=False, parents=[device])
    compute.add_argument("--runs", type=Path, metavar="FOLDER", help="folder that holds the run directories")
    threads = "CPU threads; fixed at a run's first start (default: 1 up to net width 16, else torch's number)"
    compute.add_argument("--threads", type=int, default=0, help=threads)
    compiled = "compile the step, on a GPU into a CUDA graph; fixed at a run's first start (default: on a GPU)"
    compute.add_argument("--compile", action=argparse.BooleanOptionalAction, help=compiled)
    compute.add_argument("--checkpoint-seconds", type=float, default=60.0, help="seconds between checkpoints (60)")
    scoring = argparse.ArgumentParser(add_help=False, parents=[features])
    sampler = "gmm10: also score samples from ten Gaussians fitted to the training latents (needs features)"
    scoring.add_argument("--sampler", default=PRIOR, choices=SAMPLERS, help=sampler)
    scoring.add_argument("--n", type=int, help="samples to score (default: 10000, or the scale's number)")
    return grid, device, features, compute, scoring


def _part(text: str) -> tuple[int, int]:
    i, _, n = text.partition("/")
    if not (i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise argparse.ArgumentTypeError(f"{text!r}: write i/n, for example 2/8, with i from 1 to n")
    return int(i), int(n)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminate)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.reconfigure(errors="backslashreplace")  # a letter that a terminal cannot show must end no run
    sys.exit(main())
