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
from spips_core.checks import check_images, check_pair, check_range
from spips_core.config import STREAMS, ModelConfig
from spips_core.encoding import Encoding
from spips_core.errors import CheckpointError, CompilationError, ImageError
from spips_core.fusion import PerceptronFusion, WeightedFusion
from spips_core.image_ops import reflect_borders, to_unit_range, unit_length
from spips_core.quality_maps.ms_ssim import halvings, ms_ssim_map, structure_pyramid
from spips_core.quality_maps.psnr import psnr_map
from spips_core.quality_maps.ssim import BORDER_PX
from spips_core.quality_means import Passes, feature_means, tradition_means
from spips_core.streams import Stream, mean_of_means, stream_map, stream_mean
from spips_core.trunk import Trunk, digest_of, load_strictly, load_trunk_weights

TRADITION_CHANNELS = 3 + 3 + 5  # PSNR and SSIM per colour, MS-SSIM per scale
NUM_SEMANTIC_TAPS = 2  # Eq. (8): the last two
KNOWN_PAIR_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.02, torch.float16: 0.01}
"""Largest relative difference from the known pair's recorded score, by the trunk's precision."""

STEADY_IMAGES = 8
STEADY_PIXELS = 2 * 256 * 256
"""Images of up to so many pixels (H x W) go through the trunk two to eight at a time where no score
may move by a bit, a single one beside its copy; larger ones one by one. torch convolves one image
another way than several, and 16 yet another; several together take a
quarter to two fifths less time each."""


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
        passes: the passes over pixels that `score` makes; compiled ones are faster.
        training_record: how the streams were fitted to people's judgements; empty when they
            were not.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Make the layers, the trunk uninitialised: use `SPIPS.load` or `SPIPS.untrained`."""
        super().__init__()
        self.config = config
        self.digest = ""
        self.training_record: dict[str, str] = {}
        self.passes = Passes.eager()
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
            if backbone_weights is None and model.trunk.backbone.torchvision_weights is None:
                raise CheckpointError(
                    f"checkpoint {path}: expected its trunk's weights in it, or a path to them; "
                    f"torchvision has none for {stored.config.backbone}"
                )
            load_trunk_weights(model.trunk, backbone_weights)
            state |= {f"trunk.{name}": value for name, value in model.trunk.state_dict().items()}
        elif backbone_weights is not None:
            raise CheckpointError(
                f"checkpoint {path}: expected no backbone weights, it has its own"
            )
        load_strictly(model, state, f"checkpoint {path}")
        lowest = min(weight.min().item() for weight in model.streams.parameters())
        if lowest < 0:
            raise CheckpointError(
                f"checkpoint {path}: expected stream weights of at least 0, got {lowest:g}"
            )
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

    def compile_kernels(self) -> None:
        """Compile the passes over pixels that `score` and `compare` make, for images of every size.

        They are faster then; `score` and the streams move by less than 1e-5, `ms_ssim` by up to
        5e-5 where it is near 0. It takes up to a minute, or seconds where torch finds what it
        compiled before (TORCHINDUCTOR_CACHE_DIR). In inference mode once for all that is scored in
        it; elsewhere the first calls with one pair, with several, and of `compare` stop to compile
        as well. A model with compiled passes can be copied, not pickled.

        Raises:
            CompilationError: there is no C++ compiler, or no Triton for a GPU, or the known pair
                scores differently; the model stays as it was.
        """
        before, expected = self.passes, self.score(*known_pair()).score.item()
        try:
            self.passes = Passes.compiled()
            score = self._warm_up()
            if not math.isclose(score, expected, rel_tol=KNOWN_PAIR_TOLERANCE[torch.float32]):
                raise RuntimeError(f"the known pair scored {score:g}, not {expected:g}")
        except RuntimeError as error:  # torch's own errors of its compiler are such
            self.passes = before
            reason = str(error).splitlines()[0]
            raise CompilationError(f"expected to compile, got {reason}") from error

    def _warm_up(self) -> float:
        """Return the known pair's score, of passes called as they will be."""
        if not torch.is_inference_mode_enabled():
            return self.score(*known_pair()).score.item()
        # In inference mode, that of scorers, what compiles for two pairs serves any number.
        pairs = (images.repeat(2, 1, 1, 1) for images in known_pair())
        return self.compare(*map(self.encode, pairs)).score[0].item()

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
        return self._quality(reference, distorted)

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
        if (reference.dtype, reference.device) != (distorted.dtype, distorted.device):
            reference, distorted = self._prepare(reference, distorted)
        (both,) = self._prepare(torch.cat([reference, distorted]))
        return self.compare(*self._encode(both, [len(reference), len(distorted)]))

    @torch.no_grad()
    def encode(self, images: Tensor, *, steady: bool = False) -> Encoding:
        """Return what a score needs of each image, to be made once for all its comparisons.

        Args:
            images: (N, 3, H, W), uint8, or floating point in [0, 1].
            steady: let no image move another's score by a bit, on one thread of a CPU.

        Returns:
            Tensors on the model's device.

        Raises:
            ImageError: wrong shape, type or range, or sides below 96 px.
        """
        return self.encode_parts(images, [len(images)], steady=steady)[0]

    @torch.no_grad()
    def encode_parts(
        self, images: Tensor, lengths: list[int], *, steady: bool = False
    ) -> list[Encoding]:
        """Return the same as `encode`, as several; all images go through the trunk together.

        Args:
            images: as `encode` takes them.
            lengths: how many of them each encoding is to have, N in all.
            steady: as there.

        Raises:
            ImageError: wrong shape, type or range, or sides below 96 px.
            ValueError: the lengths do not add up to N.
        """
        check_images("images", images)
        check_range("images", images)
        if sum(lengths) != len(images) or min(lengths, default=0) < 0:
            raise ValueError(f"expected lengths >= 0 that add up to {len(images)}, got {lengths}")
        (images,) = self._prepare(images)
        return self._encode(images, lengths, steady=steady)

    @torch.no_grad()
    def compare(self, reference: Encoding, distorted: Encoding) -> Scores:
        """Return the same as `score`, of images encoded before.

        Args:
            reference: N undistorted images.
            distorted: the same N scenes, of the same size.

        Raises:
            ImageError: their numbers or sizes differ.
        """
        shapes = reference.scales[0].shape, distorted.scales[0].shape
        if shapes[0] != shapes[1]:
            raise ImageError(
                "expected as many reference and distorted images, of one size, got tensors "
                f"{tuple(shapes[0])} and {tuple(shapes[1])} (with borders)"
            )
        tradition = tradition_means(reference.scales, distorted.scales, self.passes)
        quality = {"tradition": [tradition.quality]} | _split_taps(
            feature_means(reference.features, distorted.features)
        )
        means = {
            name: mean_of_means(stream, quality[name]) for name, stream in self.streams.items()
        }
        return Scores(
            score=self.fuse(means).float(),
            **{name: means[name].float() if name in means else None for name in STREAMS},
            psnr_db=tradition.psnr_db.float(),
            ssim=tradition.ssim.float(),
            ms_ssim=tradition.ms_ssim.float(),
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
        features = self._features(self._quality(reference, distorted))
        height_px, width_px = reference.shape[-2:]
        return {name: stream_map(maps, height_px, width_px) for name, maps in features.items()}

    def _prepare(self, *batches: Tensor) -> list[Tensor]:
        own = next(self.streams.parameters())
        return [to_unit_range(images.to(own.device), own.dtype) for images in batches]

    def _encode(
        self, images: Tensor, lengths: list[int], *, steady: bool = False
    ) -> list[Encoding]:
        # Each in memory of its own: passes would compile anew for where a view of it begins.
        scales = [
            [reflect_borders(scale, BORDER_PX) for scale in halvings(part.contiguous())]
            for part in torch.split(images, lengths)
        ]
        if "percept" not in self.streams and "semantic" not in self.streams:
            return [Encoding(of_part, []) for of_part in scales]
        groups = _steady_groups(images) if steady else (images,)
        features = [self._trunk_features(group) for group in groups]
        if len(groups) > 1:
            features = [[torch.cat(taps) for taps in zip(*features, strict=True)]]
        taps = [torch.split(tap[: len(images)], lengths) for tap in features[0]]
        return [Encoding(s, list(f)) for s, *f in zip(scales, *taps, strict=True)]

    def _quality(self, reference: Tensor, distorted: Tensor) -> dict[str, list[Tensor]]:
        """Return Q of every stream, Eqs. (1)-(8)."""
        quality: dict[str, list[Tensor]] = {}
        if "tradition" in self.streams:
            planes = reference.contiguous(), distorted.contiguous()
            pyramid = structure_pyramid(*planes)
            maps = psnr_map(*planes), pyramid[0].quality_map, ms_ssim_map(pyramid)
            quality["tradition"] = [torch.cat(maps, dim=1)]  # (N, 11, H, W)
        if "percept" in self.streams or "semantic" in self.streams:
            features = self._trunk_features(torch.cat([reference, distorted]))
            pairs = [feature.chunk(2) for feature in features]
            quality |= _split_taps([(of_d - of_r).square() for of_r, of_d in pairs])  # Eq. (6)
        return {name: quality[name] for name in self.streams}

    def _features(self, quality: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
        """Return F of every stream, Eqs. (9)-(11)."""
        return {name: stream(quality[name]) for name, stream in self.streams.items()}

    def _trunk_features(self, images: Tensor) -> list[Tensor]:
        """Return Phi_CNN of Eqs. (4)-(5): L tensors (N, C_l, H_l, W_l)."""
        # Differences of bfloat16 features need the images' precision.
        features = [tap.to(images.dtype) for tap in self.trunk(images)]
        return (
            [unit_length(f) for f in features] if self.config.feature_norm == "unit" else features
        )


def _steady_groups(images: Tensor) -> tuple[Tensor, ...]:
    """Return the images as they go through the trunk together, by their size alone."""
    if images.shape[-2] * images.shape[-1] > STEADY_PIXELS:
        return torch.split(images, 1)
    if len(images) == 1:
        return (images.expand(2, -1, -1, -1),)
    return torch.tensor_split(images, max(1, math.ceil(len(images) / STEADY_IMAGES)))


def _split_taps(taps: list[Tensor]) -> dict[str, list[Tensor]]:
    """Return what belongs to the low-level stream, Eq. (7), and to the semantic one, Eq. (8)."""
    return {"percept": taps[:-NUM_SEMANTIC_TAPS], "semantic": taps[-NUM_SEMANTIC_TAPS:]}
