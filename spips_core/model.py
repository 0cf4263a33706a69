"""The SPIPS model, top to bottom as in figure 2 of the paper (arXiv 2504.17234).

A pair goes through three steps. Encoding (encoding.py) turns each image into what the score needs
from it: a pyramid of five scales and the trunk's features. Comparing (quality.py) turns two
encodings into the means of the quality maps Q, Eqs. (1)-(8). The streams (streams.py) and the
fusion (fusion.py) turn those into the score, Eqs. (9)-(12).
"""

from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from spips_core.checkpoint import (
    Checkpoint,
    known_pair,
    packaged_checkpoints,
    read_checkpoint,
    restore,
    write_checkpoint,
)
from spips_core.checks import check_images, check_pair, check_range
from spips_core.config import STREAMS, ModelConfig
from spips_core.dmos_scale import DmosScale
from spips_core.encoding import Encoding, check_comparable, encode_parts
from spips_core.fusion import PerceptronFusion, WeightedFusion
from spips_core.image_ops import to_unit_range
from spips_core.inference import inference
from spips_core.kernels import EAGER, compile_kernels
from spips_core.lpips import Lpips
from spips_core.quality import num_channels, quality_maps, quality_means
from spips_core.scores import Scores
from spips_core.streams import Stream, stream_map
from spips_core.trunk import Trunk, load_trunk_weights


class SPIPS(nn.Module):
    """Scene Perceived Image Perceptual Score: how visibly `distorted` differs from `reference`.

    Attributes:
        config: the architecture.
        digest: sha256 of config, scale, weights and checkpoint format, set by `load`. It
            identifies the model that made a score.
        kernels: the loops over pixels behind the traditional stream; see `compile_kernels`.
        training_record: how the streams were fitted to people's ratings; empty if they were not.
        dmos_scale: what turns a score into the expected DMOS; None if nothing was fitted.
        lpips: computes LPIPS from the same features; None unless `load` was asked for it.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Make the layers. The trunk is uninitialised: use `SPIPS.load` or `SPIPS.untrained`."""
        super().__init__()
        self.config = config
        self.digest = ""
        self.training_record: dict[str, str] = {}
        self.dmos_scale: DmosScale | None = None
        self.lpips: Lpips | None = None
        self.kernels = EAGER
        self.trunk = Trunk(config.backbone)
        channels = num_channels(self.trunk.backbone)
        self.streams = nn.ModuleDict({name: Stream(channels[name]) for name in config.streams})
        fusion = {"weighted": WeightedFusion, "mlp": PerceptronFusion}[config.fusion]
        self.fusion = fusion(len(config.streams))

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
        return self.fuse(self.stream_means(self.quality_means(reference, distorted)))

    def quality_means(self, reference: Tensor, distorted: Tensor) -> dict[str, list[Tensor]]:
        """Return the mean of every quality map Q, before any fitted weight is applied.

        Args:
            reference: (N, 3, H, W), uint8, or floating point in [0, 1]; the undistorted images.
            distorted: (N, 3, H, W), the same scenes.

        Returns:
            By stream: one tensor (N, 11) for Eqs. (1)-(3), tensors (N, C_l) for Eqs. (7) and (8).
            All are >= 0, and 0 for identical images.

        Raises:
            ImageError: wrong shapes or types, or sides below 96 px.
        """
        check_pair(reference, distorted)
        encodings = self._encode_pair(reference, distorted)
        # Eager, because compiled kernels have no gradients.
        return quality_means(encodings[0], encodings[1], EAGER)[0]

    def stream_means(self, quality: dict[str, list[Tensor]]) -> dict[str, Tensor]:
        """Return the mean of every stream: Eqs. (9)-(11), and the barred terms of Eq. (12).

        Args:
            quality: as `quality_means` returns it.

        Returns:
            By stream, (N,) >= 0.
        """
        return {name: stream(quality[name]) for name, stream in self.streams.items()}

    def fuse(self, means: dict[str, Tensor]) -> Tensor:
        """Return the score: Eq. (12), or the perceptron of the paper's abstract.

        Args:
            means: as `stream_means` returns them.

        Returns:
            (N,) >= 0, lower is better.
        """
        score: Tensor = self.fusion(torch.stack([means[name] for name in self.streams], dim=1))
        return score

    @inference
    def score(self, reference: Tensor, distorted: Tensor) -> Scores:
        """Return the score, the stream means and the classic metrics of every pair.

        Args:
            reference: (N, 3, H, W), uint8, or floating point in [0, 1]; the undistorted images.
            distorted: (N, 3, H, W), the same scenes.

        Returns:
            Tensors (N,) on the model's device.

        Raises:
            ImageError: wrong shapes, types or range, or sides below 96 px.
        """
        check_pair(reference, distorted)
        check_range(reference=reference, distorted=distorted)
        return self.compare(*self._encode_pair(reference, distorted))

    @inference
    def encode(self, images: Tensor, *, batch_invariant: bool = False) -> Encoding:
        """Return what a score needs of each image. One encoding serves many comparisons.

        Args:
            images: (N, 3, H, W), uint8, or floating point in [0, 1].
            batch_invariant: make the result independent of the other images, bit for bit, on one
                CPU thread.

        Returns:
            Tensors on the model's device.

        Raises:
            ImageError: wrong shape, type or range, or sides below 96 px.
        """
        return self.encode_parts(images, [len(images)], batch_invariant=batch_invariant)[0]

    @inference
    def encode_parts(
        self, images: Tensor, lengths: list[int], *, batch_invariant: bool = False
    ) -> list[Encoding]:
        """Return what `encode` returns, cut into parts. All images share the trunk's batches.

        Args:
            images: as for `encode`.
            lengths: number of images in each part.
            batch_invariant: as for `encode`.

        Raises:
            ImageError: wrong shape, type or range, or sides below 96 px.
            ValueError: the lengths do not add up to N.
        """
        check_images("images", images)
        check_range(images=images)
        return self._encode(self._prepare(images), lengths, batch_invariant=batch_invariant)

    @inference
    def compare(self, reference: Encoding, distorted: Encoding) -> Scores:
        """Return what `score` returns, for images that are encoded already.

        Args:
            reference: N undistorted images.
            distorted: the same N scenes, of the same size.

        Raises:
            ImageError: their numbers or sizes differ.
        """
        check_comparable(reference, distorted)
        quality, tradition = quality_means(reference, distorted, self.kernels)
        means = self.stream_means(quality)
        score, scale = self.fuse(means).float(), self.dmos_scale
        tap_means = [*quality["percept"], *quality["semantic"]]
        return Scores(
            score=score,
            expected_dmos=scale.expected_dmos(score) if scale else None,
            **{name: means[name].float() if name in means else None for name in STREAMS},
            psnr_db=tradition.psnr_db.float(),
            ssim=tradition.ssim.float(),
            ms_ssim=tradition.ms_ssim.float(),
            lpips=self.lpips(tap_means).float() if self.lpips is not None else None,
        )

    @inference
    def quality_maps(self, reference: Tensor, distorted: Tensor) -> dict[str, Tensor]:
        """Return where each stream sees a difference, as in figures 3 and 4 of the paper.

        Args:
            reference: (N, 3, H, W), uint8, or floating point in [0, 1]; the undistorted images.
            distorted: (N, 3, H, W), the same scenes.

        Returns:
            By stream, (N, H, W) >= 0, lower is better. A map's mean equals the stream's mean, up
            to interpolation error.

        Raises:
            ImageError: wrong shapes, types or range, or sides below 96 px.
        """
        check_pair(reference, distorted)
        check_range(reference=reference, distorted=distorted)
        quality = quality_maps(*self._encode_pair(reference, distorted))
        size_px = reference.shape[-2:]
        return {
            name: stream_map(stream.maps(quality[name]), *size_px)  # type: ignore[operator]
            for name, stream in self.streams.items()
        }

    def _prepare(self, images: Tensor) -> Tensor:
        weight = next(self.streams.parameters())
        return to_unit_range(images.to(weight.device), weight.dtype)

    def _encode_pair(self, reference: Tensor, distorted: Tensor) -> list[Encoding]:
        if (reference.dtype, reference.device) != (distorted.dtype, distorted.device):
            reference, distorted = self._prepare(reference), self._prepare(distorted)
        images = self._prepare(torch.cat([reference, distorted]))
        return self._encode(images, [len(reference), len(distorted)])

    def _encode(
        self, images: Tensor, lengths: list[int], *, batch_invariant: bool = False
    ) -> list[Encoding]:
        has_deep_stream = "percept" in self.streams or "semantic" in self.streams
        return encode_parts(
            images,
            lengths,
            self.trunk if has_deep_stream else None,
            unit_features=self.config.feature_norm == "unit",
            batch_invariant=batch_invariant,
        )

    def compile_kernels(self) -> None:
        """Compile the loops over pixels (see `spips_core.kernels`) that `score` and `compare` run.

        This takes up to a minute, or seconds where torch finds an earlier result
        (TORCHINDUCTOR_CACHE_DIR). The score and the streams change by less than 1e-5, `ms_ssim` by
        up to 5e-5 near 0. Call it in inference mode if you score in inference mode; otherwise the
        first calls in inference mode compile again. A compiled model can be copied, but not
        pickled.

        Raises:
            CompilationError: it cannot compile here; the model stays as it was.
        """
        self.kernels = compile_kernels(self)

    @property
    def fusion_weights(self) -> dict[str, float] | None:
        """Eq. (12)'s weight of each stream; None if a perceptron fuses them."""
        if not isinstance(self.fusion, WeightedFusion):
            return None
        return dict(zip(self.config.streams, self.fusion.weights.tolist(), strict=True))

    @classmethod
    def untrained(
        cls, config: ModelConfig, *, backbone_weights: str | Path | None = None, seed: int = 0
    ) -> Self:
        """Make a model whose streams are not fitted yet.

        Args:
            config: the architecture.
            backbone_weights: path to the trunk's weights; None takes torchvision's, or seeded
                random ones for this project's own trunk.
            seed: of all random numbers.

        Raises:
            CheckpointError: the trunk's weights are not available or do not fit.
        """
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(seed)  # not the GPUs', which stay as they are
            model = cls(config).float()
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
        lpips: bool = False,
    ) -> Self:
        """Load a checkpoint strictly, and check that it scores its known pair as recorded.

        Args:
            checkpoint: name of a packaged checkpoint ("embedded"), or path to a file.
            backbone_weights: path to the trunk's weights, for a checkpoint that holds only the
                streams; None takes torchvision's.
            precision: the trunk's type; everything else stays float32.
            lpips: also return LPIPS v0.1; for torchvision's alexnet and squeezenet1_1 only.

        Returns:
            The model on the CPU, in evaluation mode, its trunk frozen.

        Raises:
            CheckpointError: there is no such checkpoint; or it is damaged, of another version, made
                for another trunk, or scores its known pair differently; or LPIPS is not defined
                for its features.
        """
        path = packaged_checkpoints().get(str(checkpoint), Path(checkpoint))
        stored = read_checkpoint(path)
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            model = cls(stored.config).float()  # the first weights drawn are all replaced
            model.lpips = Lpips(stored.config) if lpips else None
            restore(model.eval(), stored, path, backbone_weights, precision)
        return model

    def save(self, path: str | Path, *, with_trunk: bool = True) -> None:
        """Write a checkpoint that `SPIPS.load` reads.

        Args:
            path: the file to write.
            with_trunk: False leaves out the trunk's weights; the caller of `load` must supply them.
        """
        state = self.state_dict()
        if not with_trunk:
            state = {name: value for name, value in state.items() if not name.startswith("trunk.")}
        stored = Checkpoint(
            self.config, state, self.trunk.digest(), self.training_record,
            self.score(*known_pair()).score.item(), self.dmos_scale,
        )  # fmt: skip
        write_checkpoint(path, stored)
