"""What gates of noise see: `python -m tests.bench.noise_gates` prints the tables of docs/audit.md.

Figures of simulated nights are normal, with a standard deviation that is a share of the figure.
"""

import sys

import numpy as np

from tests.pipeline.audits.gates.test_noise import NIGHT_NOISE, breaks, flip, share_of_alarms

NIGHTS = 1000
NOISES = (0.0025, 0.005, 0.0075, 0.01, 0.02)


def main() -> None:
    sys.stdout.write(f"{NIGHTS} nights each; the rise is 2 %\nnights  noise  alarms  found\n")
    for num_earlier in (5, 7, 14):
        for noise in NOISES:
            alarms, found = (
                share_of_alarms(np.random.default_rng(1), num_earlier, rise, noise, NIGHTS)
                for rise in (0, 0.02)
            )
            sys.stdout.write(f"{num_earlier:6} {noise:6.2%} {alarms:7.1%} {found:6.1%}\n")
    sys.stdout.write("two states, noise 0.5 %\nnights  apart  alarms  found 2 %  4 %\n")
    for num_earlier in (7, 14):
        for apart in (0.025, 0.05, 0.2):
            generator = np.random.default_rng(1)
            nights = [flip(generator, num_earlier, apart / NIGHT_NOISE) for _ in range(NIGHTS)]
            shares = [
                np.mean([breaks(figures[:-1], figures[-1] + rise) for figures in nights])
                for rise in (0, 0.02, 0.04)
            ]
            listed = " ".join(f"{share:7.1%}" for share in shares)
            sys.stdout.write(f"{num_earlier:6} {apart:6.1%} {listed}\n")


if __name__ == "__main__":
    main()
