"""Forty kinds of distortion, each at five levels of known order.

Level 1 is weak, level 5 strong. Every function takes and returns (H, W, 3) uint8 RGB. A distortion
draws the same random numbers at every strength. So with one seed, a stronger level damages the same
places, more.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter
from scipy import fft, ndimage, signal

Pixels = NDArray[np.uint8]
Apply = Callable[[Pixels, float, Generator], Pixels]
"""Takes pixels (H, W, 3), a strength and a random generator; returns distorted pixels."""
NUM_LEVELS = 5
PATCH_PX = 32


@dataclass(frozen=True)
class Distortion:
    """One kind of distortion, and its strength at each level, weak to strong."""

    family: str
    strengths: tuple[float, ...]
    apply: Apply


def distort(pixels: Pixels, name: str, level: int, seed: int = 0) -> Pixels:
    """Return a distorted copy of a photograph, by a key of `DISTORTIONS` and a level, 1 to 5.

    All levels of one severity series share the seed of the random numbers.
    """
    distortion = DISTORTIONS[name]
    return distortion.apply(pixels, distortion.strengths[level - 1], np.random.default_rng(seed))


def _to_uint8(values: NDArray[Any]) -> Pixels:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def _rounded(formula: Callable[[Pixels, float, Generator], NDArray[Any]]) -> Apply:
    return lambda pixels, strength, generator: _to_uint8(formula(pixels, strength, generator))


def _codec(format_: str, **fixed: Any) -> Apply:
    def apply(pixels: Pixels, quality: float, _: Generator) -> Pixels:
        buffer = io.BytesIO()
        # JPEG 2000 takes a compression ratio instead.
        is_ratio = format_ == "JPEG2000"
        chosen = {"quality_layers": [quality]} if is_ratio else {"quality": int(quality)}
        Image.fromarray(pixels).save(buffer, format_, **chosen, **fixed)
        return np.asarray(Image.open(buffer).convert("RGB"))

    return apply


def _gaussian_blur(pixels: Pixels, sigma_px: float, _: Generator) -> Pixels:
    return _to_uint8(ndimage.gaussian_filter(pixels.astype(np.float32), (sigma_px, sigma_px, 0)))


def _convolve(pixels: Pixels, kernel: NDArray[Any]) -> Pixels:
    margin = kernel.shape[0] // 2
    padded = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    padded, kernel = padded.astype(np.float32), (kernel / kernel.sum())[..., None]
    return _to_uint8(signal.fftconvolve(padded, kernel, mode="valid", axes=(0, 1)))


def _motion_blur(pixels: Pixels, length_px: float, generator: Generator) -> Pixels:
    angle = generator.uniform(0, np.pi)
    radius = int(length_px / 2 + 2)
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    along = columns * np.cos(angle) + rows * np.sin(angle)
    across = columns * np.sin(angle) - rows * np.cos(angle)
    kernel = np.clip(1 - np.abs(across), 0, 1) * np.clip(length_px / 2 + 0.5 - np.abs(along), 0, 1)
    return _convolve(pixels, kernel)


def _lens_blur(pixels: Pixels, radius_px: float, _: Generator) -> Pixels:
    radius = int(radius_px + 2)
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return _convolve(pixels, np.clip(radius_px + 0.5 - np.hypot(rows, columns), 0, 1))


def _noise(pixels: Pixels, generator: Generator) -> NDArray[np.float32]:
    return generator.standard_normal(pixels.shape, np.float32)


def _poisson_noise(pixels: Pixels, relative: float, generator: Generator) -> Pixels:
    """Photon noise, normally distributed; a white pixel counts (1 / relative)^2 photons."""
    deviation = relative * np.sqrt(pixels.astype(np.float32) * 255)
    return _to_uint8(pixels + deviation * _noise(pixels, generator))


def _impulse_noise(pixels: Pixels, share: float, generator: Generator) -> Pixels:
    hit = generator.random(pixels.shape[:2]) < share
    values = generator.integers(0, 2, pixels.shape[:2], dtype=np.uint8) * 255
    return np.where(hit[..., None], values[..., None], pixels)


def _resampled(kernel: Image.Resampling) -> Apply:
    def apply(pixels: Pixels, factor: float, _: Generator) -> Pixels:
        height_px, width_px = pixels.shape[:2]
        small = max(1, round(width_px / factor)), max(1, round(height_px / factor))
        image = Image.fromarray(pixels).resize(small, kernel)
        return np.asarray(image.resize((width_px, height_px), kernel))

    return apply


def _median(pixels: Pixels, side_px: float, _: Generator) -> Pixels:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.MedianFilter(int(side_px))))


def _denoised(pixels: Pixels, sigma: float, generator: Generator) -> Pixels:
    """Noise, then a Wiener filter, which leaves grain at edges and smears the rest."""
    noisy = pixels + sigma * _noise(pixels, generator)
    with np.errstate(divide="ignore", invalid="ignore"):
        channels = [signal.wiener(channel, 5, sigma**2) for channel in np.moveaxis(noisy, 2, 0)]
    return _to_uint8(np.nan_to_num(np.stack(channels, axis=2)))


def _sharpened(pixels: Pixels, amount: float, _: Generator) -> Pixels:
    values = pixels.astype(np.float32)
    return _to_uint8(values + amount * (values - ndimage.gaussian_filter(values, (1.5, 1.5, 0))))


def _ringing(pixels: Pixels, cutoff: float, _: Generator) -> Pixels:
    """An ideal low-pass filter, which rings at every edge."""
    spectrum = fft.dctn(pixels.astype(np.float32), axes=(0, 1), norm="ortho")
    height_px, width_px = pixels.shape[:2]
    rows, columns = np.mgrid[:height_px, :width_px]
    spectrum[np.hypot(rows / height_px, columns / width_px) > cutoff] = 0
    return _to_uint8(fft.idctn(spectrum, axes=(0, 1), norm="ortho"))


def _blocking(pixels: Pixels, share: float, _: Generator) -> Pixels:
    """Blend towards the means of 8 x 8 blocks."""
    height_px, width_px = pixels.shape[:2]
    blocks = np.asarray(Image.fromarray(pixels).reduce(8), np.float32)
    blocks = blocks.repeat(8, axis=0).repeat(8, axis=1)
    return _to_uint8(pixels + share * (blocks[:height_px, :width_px] - pixels))


def _checkerboard(pixels: Pixels, amplitude: float, generator: Generator) -> Pixels:
    """A grid of period 2 to 4 px, like the uneven overlap of a transposed convolution."""
    period_px = int(generator.integers(2, 5))
    rows, columns = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    grid = np.where((rows % period_px == 0) ^ (columns % period_px == 0), 1.0, -1.0)
    gain = 0.5 + np.abs(pixels.astype(np.float32) / 255 - 0.5)
    return _to_uint8(pixels + amplitude * (grid - grid.mean())[..., None] * gain)


def _dithered(pixels: Pixels, num_colours: float, _: Generator) -> Pixels:
    image = Image.fromarray(pixels)
    palette = image.quantize(int(num_colours), method=Image.Quantize.MEDIANCUT)
    dithered = image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    return np.asarray(dithered.convert("RGB"))


def _contrast(pixels: Pixels, factor: float, _: Generator) -> Pixels:
    mean = pixels.mean(dtype=np.float64)
    return _to_uint8(mean + factor * (pixels - mean))


def _saturation(pixels: Pixels, factor: float, _: Generator) -> Pixels:
    return np.asarray(ImageEnhance.Color(Image.fromarray(pixels)).enhance(factor))


def _hue(pixels: Pixels, degrees: float, generator: Generator) -> Pixels:
    """Rotate the colours about the grey axis, in a random direction."""
    angle = np.deg2rad(degrees) * generator.choice([-1, 1])
    grey = np.full((3, 3), 1 / 3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    rotation = np.cos(angle) * np.eye(3) + (1 - np.cos(angle)) * grey + np.sin(angle) * cross
    return _to_uint8(pixels @ rotation.T)


def _colour_cast(pixels: Pixels, shift: float, generator: Generator) -> Pixels:
    direction = generator.standard_normal(3)
    direction -= direction.mean()
    return _to_uint8(pixels + shift * direction / np.abs(direction).max())


def _chroma_noise(pixels: Pixels, sigma: float, generator: Generator) -> Pixels:
    """Blotches of colour, a few pixels wide, at unchanged lightness."""
    noise = _noise(pixels, generator)
    noise = ndimage.gaussian_filter(noise, (2, 2, 0)) * (2 * 2 * np.sqrt(np.pi))
    return _to_uint8(pixels + sigma * (noise - noise.mean(axis=2, keepdims=True)))


def _corners(pixels: Pixels, share: float, generator: Generator) -> tuple[NDArray[Any], int]:
    """Return the corners of patches that cover a share of the image, and their side in pixels.

    A larger share keeps the patches and adds more. Images under 192 px have few patches, so
    neighbouring levels may have the same ones.
    """
    side_px = min(PATCH_PX, *(side // 3 for side in pixels.shape[:2]))
    rows, columns = (np.arange(0, side - side_px + 1, side_px) for side in pixels.shape[:2])
    grid = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    grid = generator.permutation(grid)
    return grid[: max(1, round(share * len(grid)))], side_px


def _missing_patches(pixels: Pixels, share: float, generator: Generator) -> Pixels:
    result = pixels.copy()
    fill = generator.integers(0, 256, 3, dtype=np.uint8)
    corners, side_px = _corners(pixels, share, generator)
    for row, column in corners:
        result[row : row + side_px, column : column + side_px] = fill
    return result


def _misplaced_patches(pixels: Pixels, share: float, generator: Generator) -> Pixels:
    """Patches that show the image one patch away, in a random direction."""
    result = pixels.copy()
    angle = generator.uniform(0, 2 * np.pi)
    corners, side_px = _corners(pixels, share, generator)
    offset = np.rint(side_px * np.array([np.sin(angle), np.cos(angle)])).astype(int)
    wrapped = np.roll(pixels, tuple(offset), axis=(0, 1))
    for row, column in corners:
        patch = np.s_[row : row + side_px, column : column + side_px]
        result[patch] = wrapped[patch]
    return result


def _warped(pixels: Pixels, amplitude_px: float, generator: Generator) -> Pixels:
    """Displace the pixels by a smooth random field, like generators that bend straight lines."""
    height_px, width_px = pixels.shape[:2]
    noise = generator.standard_normal((2, height_px, width_px))
    field = ndimage.gaussian_filter(noise, (0, 12, 12))
    field *= amplitude_px / np.sqrt((field**2).sum(axis=0)).mean()
    rows, columns = np.mgrid[:height_px, :width_px]
    places = [rows + field[0], columns + field[1]]
    channels = [
        ndimage.map_coordinates(channel.astype(np.float32), places, order=1, mode="reflect")
        for channel in np.moveaxis(pixels, 2, 0)
    ]
    return _to_uint8(np.stack(channels, axis=2))


def _shifted(pixels: Pixels, distance_px: float, generator: Generator) -> Pixels:
    axis, sign = generator.integers(0, 2), generator.choice([-1, 1])
    margin = int(distance_px)
    shifted = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    shifted = np.roll(shifted, sign * margin, axis=axis)
    return np.ascontiguousarray(shifted[margin:-margin, margin:-margin])


def _rotated(pixels: Pixels, degrees: float, generator: Generator) -> Pixels:
    margin = 16
    padded = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    image = Image.fromarray(padded).rotate(
        degrees * int(generator.choice([-1, 1])), Image.Resampling.BICUBIC
    )
    return np.ascontiguousarray(np.asarray(image)[margin:-margin, margin:-margin])


_gaussian_noise = _rounded(lambda pixels, sigma, g: pixels + sigma * _noise(pixels, g))
_speckle_noise = _rounded(lambda pixels, sigma, g: pixels * (1 + sigma * _noise(pixels, g)))
_banding = _rounded(lambda pixels, n, _: np.rint(pixels / 255 * (n - 1)) / (n - 1) * 255)
_brightness = _rounded(lambda pixels, shift, _: pixels.astype(np.float32) + shift)
_gamma = _rounded(lambda pixels, exponent, _: 255 * (pixels / 255) ** exponent)
_haze = _rounded(lambda pixels, share, _: pixels + share * (235.0 - pixels))
_jpeg2000 = _codec("JPEG2000", irreversible=True, mct=1, quality_mode="rates")

NEAREST, BILINEAR = Image.Resampling.NEAREST, Image.Resampling.BILINEAR
BICUBIC, LANCZOS = Image.Resampling.BICUBIC, Image.Resampling.LANCZOS

DISTORTIONS = {
    "jpeg": Distortion("compression", (70, 40, 22, 12, 5), _codec("JPEG")),
    "webp": Distortion("compression", (75, 40, 18, 6, 0), _codec("WEBP", method=0)),
    "avif": Distortion("compression", (70, 50, 35, 22, 8), _codec("AVIF", speed=10)),
    "jpeg2000": Distortion("compression", (16, 40, 80, 150, 300), _jpeg2000),
    "gaussian_blur": Distortion("blur", (0.6, 1.1, 1.8, 3, 5), _gaussian_blur),
    "motion_blur": Distortion("blur", (3, 6, 11, 18, 30), _motion_blur),
    "lens_blur": Distortion("blur", (1, 1.8, 3, 5, 8), _lens_blur),
    "gaussian_noise": Distortion("noise", (5, 11, 20, 36, 64), _gaussian_noise),
    "poisson_noise": Distortion("noise", (0.03, 0.06, 0.11, 0.2, 0.36), _poisson_noise),
    "speckle_noise": Distortion("noise", (0.04, 0.09, 0.17, 0.32, 0.6), _speckle_noise),
    "impulse_noise": Distortion("noise", (0.002, 0.008, 0.025, 0.08, 0.22), _impulse_noise),
    "chroma_noise": Distortion("noise", (5, 10, 18, 32, 56), _chroma_noise),
    # Factors 2 and 4 would also shift the image; factor 3 would sample pixels at their centres.
    "resample_nearest": Distortion("resampling", (1.5, 2.5, 3.5, 5, 7), _resampled(NEAREST)),
    "resample_bilinear": Distortion("resampling", (1.5, 2, 3, 4.5, 7), _resampled(BILINEAR)),
    "resample_bicubic": Distortion("resampling", (1.5, 2, 3, 4.5, 7), _resampled(BICUBIC)),
    "resample_lanczos": Distortion("resampling", (1.5, 2, 3, 4.5, 7), _resampled(LANCZOS)),
    "median": Distortion("artefact", (3, 5, 7, 9, 13), _median),
    "denoised": Distortion("artefact", (6, 14, 26, 44, 75), _denoised),
    "sharpened": Distortion("artefact", (0.5, 1.1, 2.2, 4.5, 9), _sharpened),
    "ringing": Distortion("artefact", (0.6, 0.42, 0.28, 0.17, 0.09), _ringing),
    "blocking": Distortion("artefact", (0.12, 0.25, 0.45, 0.7, 1), _blocking),
    "checkerboard": Distortion("artefact", (3, 7, 14, 28, 50), _checkerboard),
    "banding": Distortion("artefact", (32, 16, 9, 5, 3), _banding),
    "dithered": Distortion("artefact", (96, 32, 14, 7, 3), _dithered),
    "contrast_lower": Distortion("tone", (0.88, 0.74, 0.57, 0.38, 0.18), _contrast),
    "contrast_higher": Distortion("tone", (1.15, 1.35, 1.7, 2.4, 4), _contrast),
    "brighter": Distortion("tone", (10, 22, 40, 65, 100), _brightness),
    "darker": Distortion("tone", (-10, -22, -40, -65, -100), _brightness),
    "gamma_lower": Distortion("tone", (0.9, 0.78, 0.63, 0.46, 0.3), _gamma),
    "gamma_higher": Distortion("tone", (1.12, 1.3, 1.6, 2.1, 3.2), _gamma),
    "haze": Distortion("tone", (0.08, 0.18, 0.32, 0.5, 0.72), _haze),
    "saturation_lower": Distortion("colour", (0.85, 0.68, 0.48, 0.26, 0), _saturation),
    "saturation_higher": Distortion("colour", (1.2, 1.5, 2, 3, 5), _saturation),
    "hue": Distortion("colour", (5, 11, 21, 38, 70), _hue),
    "colour_cast": Distortion("colour", (6, 13, 24, 42, 70), _colour_cast),
    "missing_patches": Distortion("local", (0.03, 0.07, 0.15, 0.3, 0.55), _missing_patches),
    "misplaced_patches": Distortion("local", (0.04, 0.1, 0.2, 0.4, 0.75), _misplaced_patches),
    "warped": Distortion("local", (0.7, 1.5, 3, 6, 12), _warped),
    "shifted": Distortion("geometry", (1, 2, 3, 5, 8), _shifted),
    "rotated": Distortion("geometry", (0.3, 0.6, 1.1, 2, 3.5), _rotated),
}  # fmt: skip
"""Every kind of distortion by name."""
