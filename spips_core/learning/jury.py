"""A jury of full-reference metrics: which of two distorted images people would call worse.

People rated only a few kinds of distortion. For the others, metrics that agree with people across
kinds stand in for them. A juror ranks all images of a set; the jury's word is the mean rank. Only
clear verdicts count in training: see `losses.jury_loss`.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from scipy import stats

from spips_core.errors import DatasetError, PeerError
from spips_core.learning.datasets import Example, digest_of_images
from spips_core.learning.distortions import DISTORTIONS, NUM_LEVELS
from spips_core.learning.peers import PEERS, load_peer
from spips_core.learning.severity_series import SeveritySeries

UNJUDGED_FAMILY = "geometry"
"""Jurors punish a shift or a rotation that people hardly see."""

Report = Callable[[int, int], None]


class JurySeries(SeveritySeries):
    """Severity series with the jury's word on every image, in `targets`.

    Targets are (N, 5), the image's rank among all judged images of the set, in (0, 1], the mean
    over the jurors; higher is worse. They are NaN where the jury has no say.
    """

    def __init__(
        self, folder: str | Path, kinds: Sequence[str],
        *, num_series: int, side_px: int, seed: int, jurors: Sequence[str], cache: Path,
        report: Report,
    ) -> None:  # fmt: skip
        """List the series and have them judged, or take the verdicts from the cache.

        `report` takes the numbers of judged and all series.

        Raises:
            DatasetError: as `SeveritySeries`; or a juror is unknown or not installed, or cannot
                judge images of this size.
        """
        super().__init__(folder, kinds, num_series=num_series, side_px=side_px, seed=seed)
        unknown = [name for name in jurors if name not in PEERS]
        if unknown:
            raise DatasetError(f"expected jurors among {list(PEERS)}, got {unknown}")
        judged = [
            number
            for number, kind in enumerate(self.kinds)
            if DISTORTIONS[kind].family != UNJUDGED_FAMILY
        ]
        self.targets = np.full((len(self), NUM_LEVELS), np.nan)
        if judged:
            stamp = f"{digest_of_images(self)} {side_px} {seed} {list(jurors)}"
            name = hashlib.sha256(stamp.encode()).hexdigest()[:32]
            path = cache / f"{name}.jury.safetensors"
            if not path.exists():
                _keep(_verdicts(self, judged, jurors, report), path)
            verdicts = safetensors.numpy.load_file(path)["verdicts"]
            self.targets[judged] = mean_ranks(verdicts)

    def __getitem__(self, index: int) -> Example:
        """Return a series, weak to strong, with the jury's ranks; K = 5."""
        return replace(super().__getitem__(index), target=self.targets[index])


def mean_ranks(verdicts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each image's rank among all images, the mean over the jurors, in (0, 1].

    Args:
        verdicts: (J, ...), each juror's word on each image, higher is worse. Equal words share
            their mean rank.

    Returns:
        The shape of one juror's words.
    """
    ranks = stats.rankdata(verdicts.reshape(len(verdicts), -1), axis=1)
    shares = ranks.mean(axis=0) / ranks.shape[1]
    return np.asarray(shares.reshape(verdicts.shape[1:]), np.float64)


def _verdicts(
    series: SeveritySeries, judged: Sequence[int], jurors: Sequence[str], report: Report
) -> NDArray[np.float64]:
    """Return each juror's word on each image of the judged series, (J, N, 5), higher is worse."""
    words = []
    try:
        metrics = [load_peer(name, trunk_weights={}) for name in jurors]
        for number, index in enumerate(judged, start=1):
            example = series[index]
            pair = example.reference[None].expand_as(example.distorted), example.distorted
            words.append([metric(*pair).double().numpy() for metric in metrics])
            report(number, len(judged))
    except PeerError as error:
        raise DatasetError(f"jury: {error}") from error
    return np.array(words).swapaxes(0, 1)


def _keep(verdicts: NDArray[np.float64], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    safetensors.numpy.save_file({"verdicts": np.ascontiguousarray(verdicts)}, unfinished)
    unfinished.rename(path)
