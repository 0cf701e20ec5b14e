"""Time the training step and Algorithm 1: `.venv/bin/python notebooks/benchmark --scale laptop`."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of notebooks; child processes get it, too

from benchmark import measure
from mocalib.paper.grids import SCALES


def main(arguments: list[str] | None = None) -> int:
    """Measure once and print the record's path. Returns 1 with a message for what a user can mend."""
    parser = argparse.ArgumentParser("python notebooks/benchmark", description=__doc__.partition(":")[0])
    parser.add_argument("--scale", default="laptop", choices=SCALES, help="scale of the nets (laptop)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--runs", type=Path, metavar="FOLDER", help="folder for the record (default: data/throughput)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: torch's number)")
    options = parser.parse_args(arguments)
    try:
        print(measure.run(options.scale, options.device, options.runs, options.threads))
    except (ValueError, OSError, RuntimeError) as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
