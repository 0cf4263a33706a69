"""The convolutional trunks of Eqs. (4)-(5), and the layers whose outputs are the features.

torchvision is imported only to build one of its trunks: its import takes longer than torch's, and
every scorer would pay for it.
"""

import hashlib
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from spips_core.errors import CheckpointError, FetchError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


UNREADABLE = (
    OSError, EOFError, RuntimeError, ValueError, TypeError, LookupError,
    pickle.UnpicklingError, safetensors.SafetensorError, zipfile.BadZipFile,
)  # fmt: skip
"""The errors that missing, damaged or foreign weights files cause."""


@dataclass(frozen=True)
class Backbone:
    """A trunk's architecture and its taps.

    Attributes:
        build: returns the uninitialised layers, with torchvision's names.
        taps: indices of the layers whose outputs are the features of Eq. (4), each after a ReLU.
        channels: number of channels at each tap.
        torchvision_weights: name of torchvision's weights enum; None for this project's own trunk.
        takes_normalized: the first layer takes images minus ImageNet's mean, divided by its
            standard deviation; False: images in [0, 1] as they are.
    """

    build: Callable[[], nn.Sequential]
    taps: tuple[int, ...]
    channels: tuple[int, ...]
    torchvision_weights: str | None
    takes_normalized: bool = True


def _torchvision_features(name: str) -> nn.Sequential:
    from torchvision.models import get_model

    # The meta device allocates nothing, so the large classifier costs no memory.
    with torch.device("meta"):
        features = get_model(name).features
    assert isinstance(features, nn.Sequential)  # noqa: S101 - narrows an untyped attribute
    return features.to_empty(device="cpu")


def _alexnet_slim() -> nn.Sequential:
    """AlexNet's layers at a quarter of its width, with smaller kernels: 0.11 million parameters.

    Its maps have the sizes of AlexNet's. No border is added to the image, so that the first layer
    can do without normalized images; see `fold_normalization`.
    """

    def conv(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, kernel_size=3, padding=1), nn.ReLU(inplace=True)]

    pool = [nn.MaxPool2d(kernel_size=3, stride=2)]
    return nn.Sequential(
        nn.Conv2d(3, 16, kernel_size=7, stride=4), nn.ReLU(inplace=True), *pool,
        *conv(16, 48), *pool, *conv(48, 64), *conv(64, 64), *conv(64, 64),
    )  # fmt: skip


BACKBONES = {
    "alexnet": Backbone(
        lambda: _torchvision_features("alexnet"),
        (1, 4, 7, 9, 11), (64, 192, 384, 256, 256), "AlexNet_Weights.IMAGENET1K_V1",
    ),
    "vgg16": Backbone(
        lambda: _torchvision_features("vgg16"),
        (3, 8, 15, 22, 29), (64, 128, 256, 512, 512), "VGG16_Weights.IMAGENET1K_V1",
    ),
    "squeezenet1_1": Backbone(
        lambda: _torchvision_features("squeezenet1_1"),
        (1, 4, 7, 9, 10, 11, 12), (64, 128, 256, 384, 384, 512, 512),
        "SqueezeNet1_1_Weights.IMAGENET1K_V1",
    ),
    "alexnet_slim": Backbone(
        _alexnet_slim, (1, 4, 7, 9, 11), (16, 48, 64, 64, 64), None, takes_normalized=False,
    ),
}  # fmt: skip
"""All trunks by name. The taps are LPIPS's: after a ReLU, or after a Fire module."""


class Trunk(nn.Module):
    """A pre-trained network up to its last tap, frozen; Phi_CNN of Eqs. (4)-(5)."""

    mean: Tensor
    std: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        self.backbone = BACKBONES[name]
        self.features = self.backbone.build()[: self.backbone.taps[-1] + 1]
        self.requires_grad_(False)
        for key, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(
                key, torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1), persistent=False
            )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the features at every tap.

        Args:
            images: (N, 3, H, W), values in [0, 1].

        Returns:
            L tensors (N, C_l, H_l, W_l), shallow to deep, in the trunk's own precision.
        """
        hidden = self.normalized(images) if self.backbone.takes_normalized else images
        return self.taps(hidden)

    def normalized(self, images: Tensor) -> Tensor:
        """Return images (N, 3, H, W) minus ImageNet's mean, divided by its standard deviation."""
        # Rows of pixels are normalized as long vectors.
        pixels = images.permute(0, 2, 3, 1)  # (N, H, W, 3)
        mean, std = (colours.flatten().repeat(pixels.shape[2]) for colours in (self.mean, self.std))
        hidden = (pixels.flatten(2) - mean).div_(std)
        return hidden.view(pixels.shape).permute(0, 3, 1, 2)

    def taps(self, hidden: Tensor) -> list[Tensor]:
        """Return what `forward` returns, for images (N, 3, H, W) as the first layer takes them."""
        weight = next(self.features.parameters())
        # With channels innermost, as in decoded images, convolutions run up to twice as fast.
        hidden = hidden.to(weight.dtype, memory_format=torch.channels_last)
        hidden = self.features[0](hidden).to(self.precision)
        taps = []
        for index, layer in enumerate(self.features[1:], start=1):
            hidden = layer(hidden)
            if index in self.backbone.taps:
                taps.append(hidden)
        return taps

    def set_precision(self, precision: torch.dtype) -> None:
        """Change the type of the layers and of the features.

        A first layer for images in [0, 1] stays in float32: with rounded weights it would see a
        uniform area brighter or darker than it is, which moves the mean of a map by up to 3 %.
        """
        layers = self.features if self.backbone.takes_normalized else self.features[1:]
        layers.to(precision)

    @property
    def precision(self) -> torch.dtype:
        """The type of the features, and of all layers but perhaps the first."""
        *_, last = self.features.parameters()
        return last.dtype

    def initialise(self) -> None:
        """Draw random weights after He et al. 2015, for normalized images; biases are 0."""
        for layer in self.features.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    @torch.no_grad()
    def fold_normalization(self) -> None:
        """Change a first layer for normalized images into one for images in [0, 1].

        The features stay the same, because the layer adds no border to the image.
        """
        layer = self.features[0]
        assert isinstance(layer, nn.Conv2d)  # noqa: S101 - narrows a layer of any kind
        assert layer.bias is not None  # noqa: S101
        layer.weight /= self.std
        layer.bias -= (layer.weight * self.mean).sum(dim=(1, 2, 3))

    def digest(self) -> str:
        """Return the sha256 of the trunk's weights; it does not depend on the machine or file."""
        return digest_of(self.state_dict())


def digest_of(tensors: Mapping[str, Tensor], description: str = "") -> str:
    """Return the sha256 of a text and of tensors: sorted names, shapes and float32 values."""
    sha256 = hashlib.sha256(description.encode())
    for name in sorted(tensors):
        values = tensors[name].detach().to("cpu", torch.float32).contiguous()
        sha256.update(f"{name} {tuple(values.shape)}\n".encode())
        sha256.update(values.numpy().tobytes())
    return sha256.hexdigest()


def load_trunk_weights(trunk: Trunk, path: str | Path | None) -> None:
    """Fill a trunk with weights that have torchvision's names (`features.0.weight`, ...).

    Classifier weights are ignored.

    Args:
        trunk: filled in place.
        path: a .safetensors or .npz file, a .pth state dict as torchvision publishes them (loaded
            without unpickling objects), or a SPIPS checkpoint with its trunk; None takes
            torchvision's ImageNet weights from its cache or the internet.

    Raises:
        CheckpointError: the file cannot be read, or a tensor is missing, extra or of another shape.
        FetchError: torchvision cannot fetch its weights, for example without a network.
    """
    state = _torchvision_state(trunk.backbone) if path is None else _read_state(Path(path))
    if any(key.startswith("trunk.") for key in state):
        trunk_only = {k: value for k, value in state.items() if k.startswith("trunk.")}
        state = {key.removeprefix("trunk."): value for key, value in trunk_only.items()}
    state = {key: value for key, value in state.items() if not key.startswith("classifier.")}
    load_strictly(trunk, state, f"backbone weights {path or trunk.backbone.torchvision_weights}")


def _torchvision_state(backbone: Backbone) -> dict[str, Tensor]:
    if backbone.torchvision_weights is None:
        raise CheckpointError(
            "expected a path to backbone weights: this trunk is not one of torchvision's"
        )
    from torchvision.models import get_weight

    weights = get_weight(backbone.torchvision_weights)
    try:
        # weights_only, because nothing checks torchvision's cache, and it must not run code.
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except UNREADABLE as error:
        cached = Path(torch.hub.get_dir(), "checkpoints", weights.url.rpartition("/")[2])
        if not cached.exists():  # it is renamed to this name when all of it is there
            raise FetchError(
                f"torchvision could not fetch {weights.url}: {_first_line(error)}; "
                "try again, or give a path to the weights"
            ) from error
        raise CheckpointError(
            f"expected torchvision's weights in {cached}, got a damaged file: "
            f"{_first_line(error)}; delete it, or give a path to the weights"
        ) from error
    return dict(state)


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        state = dict(torch.load(path, map_location="cpu", weights_only=True))
        if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
            raise ValueError("its entries are not tensors by name")
    except UNREADABLE as error:
        raise CheckpointError(
            f"backbone weights {path}: expected a .safetensors or .npz file or a .pth state dict: "
            f"{_first_line(error)}"
        ) from error
    return state


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def load_strictly(module: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Copy tensors into a module. Names and shapes must match exactly.

    Raises:
        CheckpointError: names or shapes differ; the message lists every difference.
    """
    expected = module.state_dict()
    problems = [f"missing {key}" for key in sorted(expected.keys() - state.keys())]
    problems += [f"extra {key}" for key in sorted(state.keys() - expected.keys())]
    problems += [
        f"{key}: expected shape {tuple(expected[key].shape)}, got {tuple(state[key].shape)}"
        for key in sorted(expected.keys() & state.keys())
        if expected[key].shape != state[key].shape
    ]
    if problems:
        raise CheckpointError(f"{source}: {'; '.join(problems)}")
    module.load_state_dict(state)
