"""Command line: a sheet of the generated images, and what the baselines score on them."""

import argparse
from collections.abc import Sequence

from src.data.synthetic import KINDS, baselines, sheet


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m src.data.synthetic",
        description="Draw a sheet of the generated images and score simple baselines.",
    )
    parser.add_argument("out", nargs="?", default="synthetic.png", help="PNG to write (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    print(f"wrote {sheet(options.out, seed=options.seed)}")
    print(f"\nmean Dice   {'constant':>10} {'threshold':>10} {'otsu':>10}")
    for kind in (*KINDS, None):
        scores = baselines(kind, seed=options.seed)
        print(f"{kind or 'mix':<11} " + " ".join(f"{value:10.3f}" for value in scores.values()))


if __name__ == "__main__":
    main()
