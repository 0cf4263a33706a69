"""Pictures of where each stream sees a difference, like the paper's figures 3 and 4."""

import io

import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

from spips_core.scores import Scores

BRIGHTEST_QUANTILE = 0.995  # one bright pixel must not darken all others


def draw_heat_maps(
    reference: Tensor, distorted: Tensor, maps: dict[str, Tensor], scores: Scores
) -> bytes:
    """Return a PNG: reference, distorted and each stream's heat map, side by side.

    All maps share one colour scale, so that streams can be compared.

    Args:
        reference: (3, H, W) uint8.
        distorted: (3, H, W) uint8.
        maps: by stream, (H, W) >= 0, as `SPIPS.quality_maps` returns them for one pair.
        scores: the pair's, N = 1.

    Returns:
        The encoded picture.
    """
    height_px, width_px = reference.shape[1:]
    columns = 2 + len(maps)
    width = 3.0
    figure = Figure(
        figsize=(width * columns + 0.8, width * height_px / width_px + 0.7), layout="constrained"
    )
    axes = figure.subplots(1, columns)
    for axis, name, image in zip(
        axes, ("reference", "distorted"), (reference, distorted), strict=False
    ):
        axis.imshow(image.permute(1, 2, 0).numpy())
        axis.set_title(name)
    values = torch.stack([map_.flatten() for map_ in maps.values()])
    brightest = max(float(torch.quantile(values.float(), BRIGHTEST_QUANTILE)), 1e-6)
    colours = ScalarMappable(Normalize(0, brightest), "inferno")
    for axis, (name, map_) in zip(axes[2:], maps.items(), strict=True):
        axis.imshow(map_.numpy(), cmap=colours.cmap, norm=colours.norm)
        axis.set_title(f"{name}  {getattr(scores, name).item():.4f}")
    for axis in axes:
        axis.set_axis_off()
    figure.colorbar(colours, ax=list(axes), shrink=0.9, label="difference seen", extend="max")
    figure.suptitle(f"SPIPS {scores.score.item():.4f}  (0 is identical, lower is better)")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
