"""Trains `tiny` with each planted fault, and says which alerts named it and how late.

    python benchmarks/score_faults.py [SEEDS]

The same as `moescope make-faults --seeds SEEDS`, with a store that is thrown away. docs/lab.md has
what was found.
"""

import subprocess
import sys
from tempfile import TemporaryDirectory


def main(num_seeds: str) -> None:
    with TemporaryDirectory() as home:
        command = ["-m", "moescope.cli", "make-faults", "--seeds", num_seeds, "--home", home]
        # a fault that was missed is a result, and no failure of the score
        subprocess.run([sys.executable, *command], check=False)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "1")
