"""The package from the shell: train and score run directories, or all runs of an experiment; draw figures."""

import argparse
import sys
from pathlib import Path

from mocalib import data, evaluation, experiments, paths, report, runs, sweep, throughput, training
from mocalib.config import PRIOR, SAMPLERS, RunConfig


def main(arguments: list[str] | None = None) -> int:
    """Train and score what is asked for and print the scores; return the process's exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.what == ["figures"]:
            _figures()
        elif options.what == ["throughput"]:
            _refuse_others(options)
            print(throughput.run(options.scale, options.device, options.runs, options.threads))
        elif all(name in (*experiments.NAMES, "all") for name in options.what):
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


def _figures() -> None:
    """Draw whatever is committed, and README's results."""
    scales = report.committed()
    if not scales and not report.measured():
        raise ValueError(f"no records of finished runs in {paths.RECORDS}: restore them with git, or run make laptop")
    written = [path for scale in scales for path in report.draw(scale)]
    print(*written, *(path for record in report.measured() for path in report.draw_throughput(record)), sep="\n")
    report.update_readme()


def _refuse_others(options: argparse.Namespace) -> None:
    """Throughput takes scale, device, runs and threads; what else is given would be ignored."""
    defaults = _parser().parse_args(options.what)
    taken = {"what", "scale", "device", "runs", "threads"}
    given = {name for name, value in vars(options).items() if value != getattr(defaults, name)} - taken
    if given:
        raise ValueError(f"throughput takes --scale, --device, --runs and --threads, not {', '.join(sorted(given))}")


def _experiments(options: argparse.Namespace) -> None:
    """Train and score every run of the named experiments, several at a time if asked."""
    if options.epoch is not None:
        raise ValueError("--epoch is for run directories: experiments score every epoch that they keep")
    scale = options.scale
    seeds = experiments.SCALES[scale].seeds if options.seeds is None else options.seeds
    configs = []
    for name in options.what:
        configs += experiments.everything(scale, seeds) if name == "all" else experiments.configs(name, scale, seeds)
    if not configs:
        raise ValueError(f"{', '.join(options.what)}: not run at {scale} scale")
    settings = experiments.SCALES[scale]
    finished = sweep.run(
        configs,
        options.runs or paths.RUNS / scale,
        jobs=options.jobs,
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
        _print(run, run.scores)


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
    _print(run, rows)


def _print(run: runs.Run, rows: list[dict]) -> None:
    print(run.directory)
    for row in rows:
        against = f" | {row['n_generated']} against {row['n_reference']} {row['split']}" if row["n_reference"] else ""
        print(f"  {row['metric']:<22} {row['sampler']:<15} {row['value']:>12.4f}{against}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mocalib",
        description="Train and score the config.json that lies in each run directory, or every run of an experiment. "
        "What is finished is not done again; what was interrupted resumes. `figures` draws from committed records; "
        "`throughput` measures the engine beside Algorithm 1.",
    )
    others = f"an experiment ({', '.join(experiments.NAMES)}), or all of a scale, or figures, or throughput"
    parser.add_argument("what", nargs="+", metavar="run-directory", help=f"or {others}")
    parser.add_argument("--scale", default="laptop", choices=experiments.SCALES, help="of an experiment")
    parser.add_argument("--seeds", type=int, help="of an experiment: seeds 0 to N-1 (the scale's own)")
    parser.add_argument("--jobs", type=int, default=1, help="of an experiment: runs at a time (1); 0: one a core")
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
    parser.add_argument("--features", choices=("classifier", "inception", "none"), help="extractor of the distances")
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
