import torch

from spips_core.image_ops import reflect_borders
from spips_core.quality_maps.means import finest_means, structure_means
from spips_core.quality_maps.psnr import psnr_map
from spips_core.quality_maps.ssim import BORDER_PX, structure_loss, window_moments


def test_means_are_those_of_the_maps(photos, noisy_photos):
    pair = [images.double() / 255 for images in (photos, noisy_photos)]
    bordered = [reflect_borders(images, BORDER_PX) for images in pair]
    planes = [images.flatten(0, 1) for images in bordered]
    moments = window_moments(*bordered)
    loss = structure_loss(moments)
    maps = [loss.quality_map, loss.contrast, psnr_map(moments), (pair[0] - pair[1]).square()]
    expected = torch.stack([map_.mean(dim=(2, 3)).flatten() for map_ in maps])
    assert torch.allclose(finest_means(*planes), expected, rtol=1e-12)
    assert torch.allclose(structure_means(*planes), expected[:2], rtol=1e-12)
