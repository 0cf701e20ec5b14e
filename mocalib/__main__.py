"""The package from the shell: train and score run directories, or all runs of an experiment; draw; measure; verify."""

import argparse
import sys
from pathlib import Path

import torch

from mocalib import (
    classifiers,
    data,
    evaluation,
    experiments,
    files,
    forecast,
    integrity,
    paths,
    rehearsal,
    report,
    runs,
    scales,
    sweep,
    throughput,
    training,
)
from mocalib.config import FEATURES, PRIOR, SAMPLERS, RunConfig


def main(arguments: list[str] | None = None) -> int:
    """Train and score what is asked for and print the scores; return the process's exit code."""
    options = _parser().parse_args(arguments)
    try:
        if not options.what and not options.verify:
            raise ValueError(f"nothing is named: a run directory, an experiment, all, {', '.join(VERBS)}; see --help")
        _refuse_others(options, kind := _kind(options))
        if kind == "--verify":
            return _verify(list(map(Path, options.what)))
        if kind == "figures":
            _figures()
        elif kind == "throughput":
            print(throughput.run(options.scale, options.device, options.runs, options.threads))
        elif kind == "classifier":
            _classifier(options)
        elif kind in ("experiments", "--rehearse"):
            _experiments(options)
        else:
            for directory in map(Path, options.what):
                config = runs.read_config(directory)
                _run(config, options.runs / config.name if options.runs else directory, options)
    except (ValueError, OSError, RuntimeError) as error:  # an answer to the user, not a defect
        print(f"mocalib: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mocalib: interrupted; the same command resumes from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def _verify(directories: list[Path]) -> int:
    """Say what is damaged, and how many things are not; 1 if something is."""
    read = damaged = 0
    for _, wrong in integrity.verify(directories):
        read, damaged = read + 1, damaged + bool(wrong)
        if wrong:
            print(wrong, flush=True)
    if damaged:
        print("restore what is named, or remove it, and start again")
    print(f"{read} read whole, {damaged} damaged")
    return 1 if damaged else 0


def _figures() -> None:
    """Draw whatever is committed, and README's results."""
    scales = report.committed()
    if not scales and not report.measured():
        raise ValueError(f"no records of finished runs in {paths.RECORDS}: restore them with git, or run make laptop")
    written = [path for scale in scales for path in report.draw(scale)]
    print(*written, *(path for record in report.measured() for path in report.draw_throughput(record)), sep="\n")
    report.update_readme()


def _classifier(options: argparse.Namespace) -> None:
    """Train CIFAR-10's classifier anew, beside the committed one, of which all scores are."""
    path = (options.runs or paths.CACHE / "features") / "cifar10.pt"
    with training.use_threads(options.threads or torch.get_num_threads()):
        record = classifiers.train_cifar10(path, device=training.check_device(options.device))
    files.write_json(path.with_suffix(".json"), record)
    print(f"{path}: test accuracy {record['test_accuracy']:.4f}, sha256 {record['sha256']}")


VERBS = ("figures", "throughput", "classifier")
_HOW = {"device", "threads", "compile", "checkpoint_seconds", "features", "weights", "sampler", "n", "runs"}
TAKES = {  # what is asked for -> options that mean something to it
    "--verify": set(),
    "figures": set(),
    "throughput": {"scale", "device", "threads", "runs"},
    "classifier": {"device", "threads", "runs"},
    "run directories": _HOW | {"epoch"},
    "experiments": _HOW | {"scale", "seeds", "engine", "jobs", "gpus", "retries", "address", "part", "dry_run"},
    "--rehearse": {"scale", "seeds", "part", "device", "threads", "compile", "features", "weights", "runs", "rehearse"},
}


def _kind(options: argparse.Namespace) -> str:
    """Which of `TAKES` is asked for."""
    if options.verify:
        return "--verify"
    verb, *rest = options.what
    if verb in VERBS and rest:
        raise ValueError(f"{verb} stands alone, without {' '.join(rest)}; see --help")
    if verb in VERBS:
        return verb
    if not all(name in (*experiments.NAMES, "all") for name in options.what):
        return "run directories"
    return "--rehearse" if options.rehearse else "experiments"


def _refuse_others(options: argparse.Namespace, kind: str) -> None:
    """What is given and means nothing to what is asked for would be ignored."""
    defaults = _parser()
    given = {name for name, value in vars(options).items() if value != defaults.get_default(name)}
    if wrong := sorted(given - TAKES[kind] - {"what", "verify"}):
        takes = ", ".join(_option(name) for name in sorted(TAKES[kind])) or "no options"
        raise ValueError(f"{kind}: {', '.join(map(_option, wrong))} would be ignored; it takes {takes}")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _experiments(options: argparse.Namespace) -> None:
    """Train and score every run of the named experiments, several at a time if asked."""
    scale = options.scale
    configs = []
    for name in options.what:
        configs += _listed(name, scale, options.seeds)
    if not configs:
        raise ValueError(f"{', '.join(options.what)}: not run at {scale} scale")
    configs = _part(whole := list(dict.fromkeys(configs)), options.part)
    if not configs:
        print(f"no run is in part {options.part} of {len(whole)}")
        return
    settings, folder = experiments.SCALES[scale], options.runs or paths.RUNS / scale
    asked = (options.engine, options.jobs, options.gpus, options.retries, options.address, options.device)
    sweep.check(configs, *asked)
    if options.dry_run:
        print(*(config.name for config in configs), forecast.forecast(configs, folder, options.device), sep="\n")
        return
    if options.rehearse:
        _rehearse([c for c in configs if not runs.Run(folder / c.name, c).finished], options, settings)
        return
    finished = sweep.run(
        configs,
        folder,
        engine=options.engine,
        jobs=options.jobs,
        gpus=options.gpus,
        retries=options.retries,
        address=options.address,
        threads=options.threads or settings.threads,
        device=options.device,
        features=options.features or settings.features,
        n=settings.n_generated if options.n is None else options.n,
        weights=options.weights,
        checkpoint_seconds=options.checkpoint_seconds,
        compile=options.compile,
        sampler=options.sampler,
    )
    for run in finished:
        _print(run.directory, run.scores)


def _rehearse(configs: list[RunConfig], options: argparse.Namespace, settings: scales.Scale) -> None:
    """Take some steps of every run, whichever fail, and say what the grid would take at their pace."""
    device, features = training.check_device(options.device), options.features or settings.features
    if not configs:
        print("all of these runs are finished")
        return
    threads, hours, failed = options.threads or settings.threads, 0.0, []
    for config in configs:
        try:
            found = rehearsal.rehearse(config, device, threads, features, options.weights, bool(options.compile))
        except (ValueError, OSError, RuntimeError, ArithmeticError) as error:
            failed.append(config.name)
            print(f"{config.name}: {error}", flush=True)
        else:
            hours += found.hours
            print(found, flush=True)
    print(f"{len(configs) - len(failed)} of {len(configs)} runs rehearsed; at their pace {hours:.3g} hours of training")
    if failed:
        raise ValueError(f"{len(failed)} of {len(configs)} runs would fail: {', '.join(failed)}")


def _listed(name: str, scale: str, seeds: int | None) -> list[RunConfig]:
    """Runs of an experiment, or of all: of as many seeds as are asked for, else of those that the notebooks show."""
    own = experiments.SCALES[scale].seeds
    if name == "all":
        return experiments.everything(scale, own if seeds is None else seeds)
    return experiments.listed(scale, own)[name] if seeds is None else experiments.configs(name, scale, seeds)


def _part(configs: list[RunConfig], part: str) -> list[RunConfig]:
    """The i-th of n parts, "i/n"; each n-th run, so that neighbours, which cost alike, are shared out."""
    i, _, n = part.partition("/")
    if not (i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise ValueError(f"part = {part!r}: write i/n, for example 2/8, with i from 1 to n")
    return configs[int(i) - 1 :: int(n)]


def _run(config: RunConfig, directory: Path, options: argparse.Namespace) -> None:
    n = 10_000 if options.n is None else options.n
    if not runs.Run(directory, config).finished:  # hours of training must not end in a score that cannot be taken
        dataset = data.load(config)
        evaluation.check(config, dataset, options.features, n, options.epoch, options.weights, options.sampler)
    run = training.train(
        config,
        directory=directory,
        device=options.device,
        threads=options.threads,
        checkpoint_seconds=options.checkpoint_seconds,
        compile=options.compile,
    )
    rows = []
    for sampler in dict.fromkeys((PRIOR, options.sampler)):
        how = {"weights": options.weights, "device": options.device, "sampler": sampler}
        rows += evaluation.evaluate(run, options.features, n, options.epoch, **how)
    _print(run.directory, rows)


def _print(directory: Path, rows: list[dict]) -> None:
    print(directory)
    for row in rows:
        against = f" | {row['n_generated']} against {row['n_reference']} {row['split']}" if row["n_reference"] else ""
        print(f"  {row['metric']:<22} {row['sampler']:<15} {row['value']:>12.4f}{against}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mocalib",
        description="Train and score the config.json that lies in each run directory, or every run of an experiment. "
        "What is finished is not done again; what was interrupted resumes. `figures` draws from committed records; "
        "`throughput` measures the engine beside Algorithm 1; `classifier` trains CIFAR-10's.",
    )
    others = f"an experiment ({', '.join(experiments.NAMES)}), or all of a scale, or one of {', '.join(VERBS)}"
    parser.add_argument("what", nargs="*", metavar="run-directory", help=f"or {others}")
    parser.add_argument("--scale", default="laptop", choices=experiments.SCALES, help="of an experiment")
    parser.add_argument("--seeds", type=int, help="of an experiment: seeds 0 to N-1 (the scale's own)")
    parser.add_argument(
        "--engine", default="local", choices=sweep.ENGINES, help="of an experiment: processes here, or a Ray cluster"
    )
    parser.add_argument("--jobs", type=int, help="runs at a time (local: 1, or 0 for one a core; ray: all that fit)")
    parser.add_argument("--gpus", type=float, help="of a run: 1 on a GPU, or a part of it (0.5: two runs share one)")
    parser.add_argument(
        "--retries", type=int, default=sweep.RETRIES, help=f"of a run whose process or node dies ({sweep.RETRIES})"
    )
    parser.add_argument("--address", help="of a Ray cluster; by default RAY_ADDRESS, one that runs here, or a new one")
    parser.add_argument("--part", default="1/1", metavar="i/n", help="the i-th of n parts, as of a SLURM array")
    parser.add_argument("--dry-run", action="store_true", help="name the runs and what they will take; nothing is run")
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="take a few steps of each run of an experiment and score a batch, on real data; nothing is kept",
    )
    parser.add_argument(
        "--verify", action="store_true", help="read run directories, or all runs, caches and weights, for damage"
    )
    parser.add_argument("--runs", type=Path, help="train in this folder, under the runs' own names")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument(
        "--threads", type=int, help="CPU threads; recorded at the first start and kept (default: torch's)"
    )
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="compile the step, on a GPU into one CUDA graph; recorded at the first start and kept (default: on a GPU)",
    )
    parser.add_argument("--checkpoint-seconds", type=float, default=60.0, help="seconds between checkpoints (60)")
    parser.add_argument("--features", choices=(*FEATURES, "none"), help="extractor of the distances")
    parser.add_argument("--weights", type=Path, help="file of Inception's weights")
    parser.add_argument(
        "--sampler",
        default=PRIOR,
        choices=SAMPLERS,
        help="gmm10: score samples of ten Gaussians fitted to the training codes, too (needs features)",
    )
    parser.add_argument("--n", type=int, help="samples to score (10000, or the scale's own)")
    parser.add_argument("--epoch", type=int, help="score the weights kept at this epoch (default: the last)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
