"""Kernels: the loops over pixels behind the traditional stream, eager or compiled.

PSNR, SSIM and MS-SSIM need some thirty tensor operations on every pixel. Run one by one ("eager"),
each reads and writes whole images, and memory bandwidth is the limit. `torch.compile` fuses them
into one loop that keeps its values in registers. Compiled scores differ from eager ones by less
than 1e-5 (`ms_ssim` near 0 by up to 5e-5). Kernels return means, not maps, because a score needs
only means.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from spips_core.checkpoint import KNOWN_PAIR_TOLERANCE, known_pair
from spips_core.errors import CompilationError
from spips_core.quality_maps.means import finest_means, structure_means

if TYPE_CHECKING:
    from spips_core.model import SPIPS


@dataclass(frozen=True)
class Kernels:
    """The two loops over pixels; both take planes (P, H, W) of two images.

    Attributes:
        finest_means: as `spips_core.quality_maps.means.finest_means`; for the finest scale.
        structure_means: as `spips_core.quality_maps.means.structure_means`; for the others.
    """

    finest_means: Callable[[Tensor, Tensor], Tensor]
    structure_means: Callable[[Tensor, Tensor], Tensor]


def _by_pair(
    kernel: Callable[[Tensor, Tensor], Tensor], reference: Tensor, distorted: Tensor
) -> Tensor:
    """Run a kernel; on a CPU pair by pair, because more pairs would not fit its cache."""
    if not reference.is_cpu:
        return kernel(reference, distorted)
    pairs = zip(torch.split(reference, 3), torch.split(distorted, 3), strict=True)
    return torch.cat([kernel(*pair) for pair in pairs], dim=-1)


EAGER = Kernels(partial(_by_pair, finest_means), partial(_by_pair, structure_means))


def compile_kernels(model: "SPIPS") -> Kernels:
    """Return compiled kernels, after checking that they give the known pair the same score.

    Raises:
        CompilationError: there is no C++ compiler, or no Triton for a GPU, or the compiler's cache
            cannot be written, or the known pair scores differently.
    """
    before, expected = model.kernels, model.score(*known_pair()).score.item()
    try:
        model.kernels = Kernels(_compiled(finest_means), _compiled(structure_means))
        score = _warm_up(model)
        if not math.isclose(score, expected, rel_tol=KNOWN_PAIR_TOLERANCE[torch.float32]):
            raise RuntimeError(f"the known pair scored {score:g}, not {expected:g}")
        return model.kernels
    except Exception as error:  # a compiler that is missing, a cache that cannot be written, ...
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CompilationError(f"expected to compile, got {reason}") from error
    finally:
        model.kernels = before


def _compiled(kernel: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return torch.compile(
        kernel,
        dynamic=True,
        fullgraph=True,
        # Fused multiply-adds, as on GPUs: a quarter less time.
        options={"cpp.enable_floating_point_contract_flag": "fast"},
    )


def _warm_up(model: "SPIPS") -> float:
    """Return the known pair's score, computed the way that later calls will be."""
    if not torch.is_inference_mode_enabled():
        return model.score(*known_pair()).score.item()
    # In inference mode, code that is compiled for two pairs serves any number.
    pairs = (images.repeat(2, 1, 1, 1) for images in known_pair())
    return model.compare(*map(model.encode, pairs)).score[0].item()
