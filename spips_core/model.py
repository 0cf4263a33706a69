"""The SPIPS model, top to bottom as in figure 2 of the paper (arXiv 2504.17234)."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from spips_core.checkpoint import (
    Checkpoint,
    known_pair,
    packaged_checkpoints,
    read_checkpoint,
    write_checkpoint,
)
from spips_core.checks import check_pair, check_range
from spips_core.config import STREAMS, ModelConfig
from spips_core.errors import CheckpointError
from spips_core.features import Trunk, digest_of, load_strictly, load_trunk_weights
from spips_core.fusion import PerceptronFusion, WeightedFusion
from spips_core.image_ops import to_unit_range, unit_length
from spips_core.quality_maps.ms_ssim import ms_ssim, ms_ssim_map, structure_pyramid
from spips_core.quality_maps.psnr import psnr_db, psnr_map
from spips_core.quality_maps.ssim import StructureLoss
from spips_core.streams import Stream, stream_map, stream_mean

TRADITION_CHANNELS = 3 + 3 + 5  # PSNR and SSIM per colour, MS-SSIM per scale
NUM_SEMANTIC_TAPS = 2  # Eq. (8): the last two
KNOWN_PAIR_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.02, torch.float16: 0.01}
"""Largest relative difference from the known pair's recorded score, by the trunk's precision."""


@dataclass(frozen=True)
class Scores:
    """What a batch of N pairs scored; every tensor is (N,) float32.

    Attributes:
        score: the SPIPS score, 0 for identical images, lower is better.
        tradition: mean of the traditional stream, None when the model leaves it out.
        percept: mean of the low-level stream, None when the model leaves it out.
        semantic: mean of the high-level stream, None when the model leaves it out.
        psnr_db: in decibels, +inf for identical images, higher is better.
        ssim: in [-1, 1], 1 for identical images, higher is better.
        ms_ssim: in [0, 1], 1 for identical images, higher is better.
    """

    score: Tensor
    tradition: Tensor | None
    percept: Tensor | None
    semantic: Tensor | None
    psnr_db: Tensor
    ssim: Tensor
    ms_ssim: Tensor


class SPIPS(nn.Module):
    """Scene Perceived Image Perceptual Score: how visibly `distorted` differs from `reference`.

    Attributes:
        config: the architecture.
        digest: sha256 over config and weights, set by `load`: what a score's lineage names.
        training_record: how the streams were fitted to people's judgements; empty when they
            were not.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Make the layers, the trunk uninitialised: use `SPIPS.load` or `SPIPS.untrained`."""
        super().__init__()
        self.config = config
        self.digest = ""
        self.training_record: dict[str, str] = {}
        self.trunk = Trunk(config.backbone)
        channels = self.trunk.backbone.channels
        maps = {
            "tradition": (TRADITION_CHANNELS,),
            "percept": channels[:-NUM_SEMANTIC_TAPS],
            "semantic": channels[-NUM_SEMANTIC_TAPS:],
        }
        self.streams = nn.ModuleDict({name: Stream(maps[name]) for name in config.streams})
        fusion = {"weighted": WeightedFusion, "mlp": PerceptronFusion}[config.fusion]
        self.fusion = fusion(len(config.streams))

    @classmethod
    def untrained(
        cls, config: ModelConfig, *, backbone_weights: str | Path | None = None, seed: int = 0
    ) -> Self:
        """Make a model whose streams are not fitted to anything yet.

        Args:
            config: the architecture.
            backbone_weights: path to the trunk's weights; None takes torchvision's, or seeded
                random ones for this project's own trunk.
            seed: of every random number.

        Raises:
            CheckpointError: the trunk's weights cannot be had or do not fit.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # not the GPUs', which stay as they are
            model = cls(config)
            if backbone_weights or model.trunk.backbone.torchvision_weights:
                load_trunk_weights(model.trunk, backbone_weights)
            else:
                model.trunk.initialise()
        return model.eval()

    @classmethod
    def load(
        cls,
        checkpoint: str | Path = "embedded",
        *,
        backbone_weights: str | Path | None = None,
        precision: torch.dtype = torch.float32,
    ) -> Self:
        """Load a checkpoint, strictly, and check that it scores its known pair as recorded.

        Args:
            checkpoint: the name of one in the package ("embedded"), or a path to a file.
            backbone_weights: path to the trunk's weights, for a checkpoint that holds only the
                streams; None takes torchvision's.
            precision: type that the trunk computes in; everything else stays float32.

        Returns:
            The model on the CPU, in evaluation mode, its trunk frozen.

        Raises:
            CheckpointError: no such checkpoint; or it is damaged, of another version, made for
                another trunk, or scores its known pair differently.
        """
        if precision not in KNOWN_PAIR_TOLERANCE:
            known = ", ".join(map(str, KNOWN_PAIR_TOLERANCE))
            raise CheckpointError(f"precision: expected one of {known}, got {precision}")
        path = packaged_checkpoints().get(str(checkpoint), Path(checkpoint))
        stored = read_checkpoint(path)
        with torch.random.fork_rng(devices=[]):  # the first weights drawn are all replaced
            model = cls(stored.config)
        state = dict(stored.tensors)
        if not any(name.startswith("trunk.") for name in state):
            load_trunk_weights(model.trunk, backbone_weights)
            state |= {f"trunk.{name}": value for name, value in model.trunk.state_dict().items()}
        elif backbone_weights is not None:
            raise CheckpointError(
                f"checkpoint {path}: expected no backbone weights, it has its own"
            )
        load_strictly(model, state, f"checkpoint {path}")
        if model.trunk.digest() != stored.trunk_digest:
            raise CheckpointError(
                f"checkpoint {path}: expected the trunk with digest {stored.trunk_digest}, "
                f"got {model.trunk.digest()}"
            )
        model.training_record = stored.training
        model.digest = digest_of(model.state_dict(), json.dumps(asdict(stored.config)))
        model.trunk.features.to(precision)
        model.eval()._check_known_pair(path, stored.known_pair_score)
        return model

    def save(self, path: str | Path, *, with_trunk: bool = True) -> None:
        """Write a checkpoint that `SPIPS.load` reads.

        Args:
            path: the file to write.
            with_trunk: False leaves the trunk's weights out; whoever loads it must have them.
        """
        state = self.state_dict()
        if not with_trunk:
            state = {name: value for name, value in state.items() if not name.startswith("trunk.")}
        score = self.score(*known_pair()).score.item()
        write_checkpoint(
            path, Checkpoint(self.config, state, self.trunk.digest(), self.training_record, score)
        )

    @property
    def fusion_weights(self) -> dict[str, float] | None:
        """Eq. (12)'s weight of each stream, by name; None when a perceptron fuses them."""
        if not isinstance(self.fusion, WeightedFusion):
            return None
        return dict(zip(self.config.streams, self.fusion.weights.tolist(), strict=True))

    def _check_known_pair(self, path: Path, expected: float) -> None:
        precision = next(self.trunk.features.parameters()).dtype
        score = self.score(*known_pair()).score.item()
        if not math.isclose(score, expected, rel_tol=KNOWN_PAIR_TOLERANCE[precision]):
            raise CheckpointError(
                f"checkpoint {path}: expected its known pair to score {expected:g}, got {score:g}"
            )

    def forward(self, reference: Tensor, distorted: Tensor) -> Tensor:
        """Return the score of every pair, differentiable in both images.

        Args:
            reference: (N, 3, H, W), uint8, or floating point in [0, 1]; the undistorted images.
            distorted: (N, 3, H, W), the same scenes.

        Returns:
            (N,) >= 0; 0 for identical images, lower is better.

        Raises:
            ImageError: wrong shapes or types, or sides below 96 px.
        """
        return self.fuse(self.stream_means(self.quality(reference, distorted)))

    def quality(self, reference: Tensor, distorted: Tensor) -> dict[str, list[Tensor]]:
        """Return the quality maps Q of every stream in use, before anything that is fitted.

        Args:
            reference: (N, 3, H, W), uint8, or floating point in [0, 1]; the undistorted images.
            distorted: (N, 3, H, W), the same scenes.

        Returns:
            By stream's name, Eqs. (1)-(3) as one tensor (N, 11, H, W), Eqs. (7) and (8) as
            tensors (N, C_l, H_l, W_l); all >= 0, 0 where the images are identical.

        Raises:
            ImageError: wrong shapes or types, or sides below 96 px.
        """
        check_pair(reference, distorted)
        reference, distorted = self._prepare(reference, distorted)
        pyramid = structure_pyramid(reference, distorted) if "tradition" in self.streams else []
        return self._quality(reference, distorted, pyramid)

    def stream_means(self, quality: dict[str, list[Tensor]]) -> dict[str, Tensor]:
        """Return the mean of every stream, Eqs. (9)-(11) and the bars of Eq. (12).

        A trained stream's convolutions are 1 x 1 with weights >= 0, so the means of the maps, given
        as maps of one pixel, have the same stream means as the maps themselves.

        Args:
            quality: as `quality` returns it.

        Returns:
            By stream's name, (N,) >= 0.
        """
        return {name: stream_mean(maps) for name, maps in self._features(quality).items()}

    def fuse(self, means: dict[str, Tensor]) -> Tensor:
        """Return the score, Eq. (12) or its perceptron.

        Args:
            means: as `stream_means` returns them.

        Returns:
            (N,) >= 0, lower is better.
        """
        score: Tensor = self.fusion(torch.stack([means[name] for name in self.streams], dim=1))
        return score

    @torch.no_grad()
    def score(self, reference: Tensor, distorted: Tensor) -> Scores:
        """Return the score, the streams' means and the classic metrics of every pair.

        Args:
            reference: (N, 3, H, W), uint8, or floating point in [0, 1]; the undistorted images.
            distorted: (N, 3, H, W), the same scenes.

        Returns:
            Tensors (N,) on the model's device.

        Raises:
            ImageError: wrong shapes, types or range, or sides below 96 px.
        """
        check_pair(reference, distorted)
        check_range("reference", reference)
        check_range("distorted", distorted)
        reference, distorted = self._prepare(reference, distorted)
        pyramid = structure_pyramid(reference, distorted)
        means = self.stream_means(self._quality(reference, distorted, pyramid))
        return Scores(
            score=self.fuse(means).float(),
            **{name: means[name].float() if name in means else None for name in STREAMS},
            psnr_db=psnr_db(reference, distorted).float(),
            ssim=pyramid[0].ssim_map.mean(dim=(1, 2, 3)).float(),
            ms_ssim=ms_ssim(pyramid).float(),
        )

    @torch.no_grad()
    def quality_maps(self, reference: Tensor, distorted: Tensor) -> dict[str, Tensor]:
        """Return where each stream sees a difference, as in figures 3 and 4 of the paper.

        Args:
            reference: (N, 3, H, W), uint8, or floating point in [0, 1]; the undistorted images.
            distorted: (N, 3, H, W), the same scenes.

        Returns:
            By stream's name, (N, H, W) >= 0, lower is better. A map's mean is the stream's mean,
            up to what interpolation changes.

        Raises:
            ImageError: wrong shapes, types or range, or sides below 96 px.
        """
        check_pair(reference, distorted)
        check_range("reference", reference)
        check_range("distorted", distorted)
        reference, distorted = self._prepare(reference, distorted)
        pyramid = structure_pyramid(reference, distorted)
        features = self._features(self._quality(reference, distorted, pyramid))
        height_px, width_px = reference.shape[-2:]
        return {name: stream_map(maps, height_px, width_px) for name, maps in features.items()}

    def _prepare(self, reference: Tensor, distorted: Tensor) -> tuple[Tensor, Tensor]:
        own = next(self.streams.parameters())
        reference, distorted = reference.to(own.device), distorted.to(own.device)
        return to_unit_range(reference, own.dtype), to_unit_range(distorted, own.dtype)

    def _quality(
        self, reference: Tensor, distorted: Tensor, pyramid: list[StructureLoss]
    ) -> dict[str, list[Tensor]]:
        """Return Q of every stream, Eqs. (1)-(8)."""
        quality: dict[str, list[Tensor]] = {}
        if "tradition" in self.streams:
            maps = psnr_map(reference, distorted), pyramid[0].quality_map, ms_ssim_map(pyramid)
            quality["tradition"] = [torch.cat(maps, dim=1)]  # (N, 11, H, W)
        if "percept" in self.streams or "semantic" in self.streams:
            squared = self._squared_differences(reference, distorted)
            quality["percept"] = squared[:-NUM_SEMANTIC_TAPS]  # Eq. (7)
            quality["semantic"] = squared[-NUM_SEMANTIC_TAPS:]  # Eq. (8)
        return {name: quality[name] for name in self.streams}

    def _features(self, quality: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
        """Return F of every stream, Eqs. (9)-(11)."""
        return {name: stream(quality[name]) for name, stream in self.streams.items()}

    def _squared_differences(self, reference: Tensor, distorted: Tensor) -> list[Tensor]:
        """Return Q_CNN of Eq. (6): L tensors (N, C_l, H_l, W_l) >= 0."""
        maps = []
        for tap in self.trunk(torch.cat([reference, distorted])):
            feature = tap.to(reference.dtype)  # differences of bfloat16 features need the room
            feature = unit_length(feature) if self.config.feature_norm == "unit" else feature
            feature_r, feature_d = feature.chunk(2)
            maps.append((feature_d - feature_r).square())
        return maps
