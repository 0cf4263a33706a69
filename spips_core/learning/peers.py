"""Peers: other full-reference metrics from their own libraries, to compare SPIPS with.

They need the `evaluation` extra (piq, lpips). When a peer's weights cannot be loaded, the tables
say so and have no figures for it.
"""

import urllib.error
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from spips_core.errors import PeerError
from spips_core.image_ops import to_unit_range
from spips_core.trunk import Trunk, load_trunk_weights

Metric = Callable[[Tensor, Tensor], Tensor]
"""Takes references and distorted images (N, 3, H, W) uint8; returns (N,), lower is better.

Raises PeerError for images that the metric does not accept, such as too small ones.
"""

PIQ_FUNCTIONS = {
    "psnr": ("psnr", -1), "ssim": ("ssim", -1), "ms_ssim": ("multi_scale_ssim", -1),
    "iw_ssim": ("information_weighted_ssim", -1), "vif": ("vif_p", -1), "vsi": ("vsi", -1),
    "mdsi": ("mdsi", 1), "haarpsi": ("haarpsi", -1), "fsimc": ("fsim", -1),
}  # fmt: skip
"""piq's function of each peer, and the sign that makes lower better."""
PEERS = (*PIQ_FUNCTIONS, "dists", "lpips_alexnet", "lpips_squeezenet1_1")
LPIPS_NAMES = {"alexnet": "alex", "squeezenet1_1": "squeeze"}


def load_peer(name: str, *, trunk_weights: dict[str, str | None]) -> Metric:
    """Return a peer with its library's defaults, negated if higher is better there.

    LPIPS reads each trunk's weights from a file; None takes torchvision's.

    Raises:
        PeerError: the library is not installed, or the weights cannot be loaded.
    """
    try:
        if name.startswith("lpips_"):
            trunk = name.removeprefix("lpips_")
            return _no_grad(_lpips(trunk, trunk_weights.get(trunk)))
        return _no_grad(_piq(name))
    except ImportError as error:
        raise PeerError(f"{name}: pip install 'spips[evaluation]' first: {error}") from error
    except (OSError, urllib.error.URLError, RuntimeError, ValueError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PeerError(f"{name}: its weights cannot be loaded: {line}") from error


def _no_grad(metric: Metric) -> Metric:
    def score(reference: Tensor, distorted: Tensor) -> Tensor:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the libraries warn about their own dependencies
            try:
                return metric(
                    to_unit_range(reference, torch.float32), to_unit_range(distorted, torch.float32)
                )
            except (ValueError, RuntimeError) as error:  # such as images that are too small
                line = str(error).splitlines()[0]
                size = " x ".join(str(side) for side in reference.shape[-2:])
                raise PeerError(f"images of {size} px (H x W): {line}") from error

    return score


def _piq(name: str) -> Metric:
    import piq  # the extra is optional

    if name == "dists":
        dists = piq.DISTS(reduction="none").eval()
        return lambda reference, distorted: dists(distorted, reference)
    function, sign = PIQ_FUNCTIONS[name]
    metric = getattr(piq, function)
    # piq adds a small term to the error, so the PSNR of identical images is finite here.
    return lambda reference, distorted: (
        sign * metric(distorted, reference, data_range=1.0, reduction="none")
    )


def _lpips(trunk_name: str, weights: str | None) -> Metric:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import lpips  # the extra is optional

        net = lpips.LPIPS(net=LPIPS_NAMES[trunk_name], pnet_rand=True, verbose=False).eval()
    trunk = Trunk(trunk_name)
    load_trunk_weights(trunk, Path(weights) if weights else None)
    # lpips cuts the trunk into slices and keeps torchvision's numbers: slice2.3 is features.3.
    state = trunk.state_dict()
    net.net.load_state_dict(
        {key: state[f"features.{key.split('.', 1)[1]}"] for key in net.net.state_dict()}
    )
    return lambda reference, distorted: net(reference, distorted, normalize=True).flatten()
