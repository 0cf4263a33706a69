import numpy as np
import pytest
from skimage import data

from spips_core.learning.distortions import DISTORTIONS, NUM_LEVELS, distort

LEVELS = range(1, NUM_LEVELS + 1)
RANDOM = {
    "motion_blur", "gaussian_noise", "poisson_noise", "speckle_noise", "impulse_noise",
    "chroma_noise", "denoised", "checkerboard", "hue", "colour_cast", "missing_patches",
    "misplaced_patches", "warped", "shifted", "rotated",
}  # fmt: skip


@pytest.fixture(scope="module")
def photo():
    """(160, 160, 3): below 160 px a few patches cannot tell five levels apart."""
    return np.ascontiguousarray(data.astronaut()[80:240, 120:280])


def levels_of(pixels, name, seed=0):
    return np.stack([distort(pixels, name, level, seed) for level in LEVELS])


def grey(value=128, size=(96, 104)):
    return np.full((*size, 3), value, np.uint8)


def in_family(family):
    return [name for name, distortion in DISTORTIONS.items() if distortion.family == family]


def roughness(pixels):
    return np.abs(np.diff(pixels.astype(float), axis=0)).mean()


@pytest.mark.parametrize("name", DISTORTIONS)
def test_squared_error_rises_from_each_level_to_the_next(photo, name):
    levels = levels_of(photo, name)
    assert (levels.shape[1:], levels.dtype) == (photo.shape, np.uint8)
    errors = ((levels - photo.astype(float)) ** 2).mean(axis=(1, 2, 3))
    assert errors[0] > 1
    assert (errors[1:] > 1.2 * errors[:-1]).all()


@pytest.mark.parametrize("name", DISTORTIONS)
def test_same_seed_gives_the_same_and_leaves_the_input_alone(photo, name):
    given = photo.copy()
    first = distort(given, name, 3, seed=7)
    assert np.array_equal(given, photo)
    assert np.array_equal(distort(given, name, 3, seed=7), first)


@pytest.mark.parametrize("name", DISTORTIONS)
def test_only_random_kinds_depend_on_the_seed(photo, name):
    results = {distort(photo, name, 3, seed).tobytes() for seed in range(8)}
    assert (len(results) > 1) == (name in RANDOM)


def test_no_two_kinds_give_the_same(photo):
    assert len({distort(photo, name, 3).tobytes() for name in DISTORTIONS}) == len(DISTORTIONS)


@pytest.mark.parametrize("name", DISTORTIONS)
def test_odd_sizes_and_constant_images_keep_shape_and_type(photo, name):
    for pixels in (photo[:101, :133], photo[3:100:2, 1:98:2], grey(0, (97, 99)), grey(255)):
        for level in (1, NUM_LEVELS):
            result = distort(pixels, name, level)
            assert (result.shape, result.dtype) == (pixels.shape, np.uint8)


@pytest.mark.parametrize("family", ["blur", "resampling", "geometry"])
def test_what_only_moves_pixels_about_keeps_a_constant_image(family):
    for name in [*in_family(family), "median", "sharpened", "warped", "ringing", "blocking"]:
        for value in (0, 77, 255):
            assert (levels_of(grey(value), name) == value).all(), name


@pytest.mark.parametrize("name", [*in_family("blur"), "resample_bilinear", "resample_bicubic"])
def test_blur_and_resampling_make_it_ever_smoother(photo, name):
    roughnesses = [roughness(pixels) for pixels in (photo, *levels_of(photo, name))]
    assert (np.diff(roughnesses) < 0).all()


def test_sharpening_makes_it_ever_rougher(photo):
    roughnesses = [roughness(pixels) for pixels in (photo, *levels_of(photo, "sharpened"))]
    assert (np.diff(roughnesses) > 0).all()


@pytest.mark.parametrize(
    ("name", "deviation_of_strength"),
    [
        ("gaussian_noise", lambda sigma: sigma),
        ("speckle_noise", lambda sigma: 128 * sigma),
        ("poisson_noise", lambda relative: relative * (128 * 255) ** 0.5),
        ("chroma_noise", lambda sigma: (2 / 3) ** 0.5 * sigma),  # the common part is taken off
    ],
)
def test_noise_is_the_same_at_every_level_only_stronger(name, deviation_of_strength):
    noises = [
        distort(grey(128, (128, 128)), name, level).astype(float) - 128 for level in (1, 2, 3)
    ]
    for noise, strength in zip(noises, DISTORTIONS[name].strengths, strict=False):
        assert noise.std() == pytest.approx(deviation_of_strength(strength), rel=0.05)
        assert np.corrcoef(noise.flat, noises[2].flat)[0, 1] > 0.98


def test_chroma_noise_leaves_the_mean_of_the_colours():
    noise = distort(grey(), "chroma_noise", 3).astype(float) - 128
    assert noise.std() > 10
    assert np.abs(noise.mean(axis=2)).max() < 1


def test_stronger_impulse_noise_keeps_the_hits_of_the_weaker():
    levels = levels_of(grey(128, (128, 128)), "impulse_noise")
    hits = (levels != 128).any(axis=3)
    assert set(np.unique(levels[-1])) == {0, 128, 255}
    assert (levels.min(axis=3) == levels.max(axis=3)).all()
    for weak, strong, hit in zip(levels, levels[1:], hits, strict=False):
        assert np.array_equal(strong[hit], weak[hit])
    expected = DISTORTIONS["impulse_noise"].strengths
    np.testing.assert_allclose(hits.mean(axis=(1, 2)), expected, atol=0.01)


@pytest.mark.parametrize("name", ["missing_patches", "misplaced_patches"])
def test_stronger_level_keeps_the_patches_of_the_weaker(photo, name):
    levels = levels_of(photo, name)
    changed = (levels != photo).any(axis=3)
    for weak, strong, hit in zip(levels, levels[1:], changed, strict=False):
        assert np.array_equal(strong[hit], weak[hit])
    np.testing.assert_allclose(changed.mean(axis=(1, 2)), DISTORTIONS[name].strengths, atol=0.03)


@pytest.mark.parametrize("name", ["missing_patches", "misplaced_patches"])
def test_another_seed_puts_patches_elsewhere(photo, name):
    places = {(distort(photo, name, 1, s) != photo).any(axis=2).nonzero()[0][0] for s in range(6)}
    assert len(places) > 1


def test_missing_patches_are_squares_of_one_colour(photo):
    result = distort(photo, "missing_patches", 4)
    changed = (result != photo).any(axis=2)
    assert len(np.unique(result[changed], axis=0)) == 1
    blocks = changed.reshape(5, 32, 5, 32).mean(axis=(1, 3))
    assert ((blocks == 0) | (blocks > 0.95)).all()  # a pixel may have had the colour before


def test_misplaced_patches_show_what_stands_a_patch_away(photo):
    result = distort(photo, "misplaced_patches", 5)
    changed = (result != photo).any(axis=2)
    offsets = [(y, x) for y in range(-32, 33) for x in range(-32, 33) if 31 < np.hypot(y, x) < 33]
    rolled = (np.roll(photo, offset, axis=(0, 1)) for offset in offsets)
    assert any(np.array_equal(result[changed], other[changed]) for other in rolled)


@pytest.mark.parametrize(("name", "sign"), [("brighter", 1), ("darker", -1)])
def test_brightness_shifts_by_the_strength_and_clips(name, sign):
    strengths = np.array(DISTORTIONS[name].strengths)
    assert (strengths * sign > 0).all()
    assert levels_of(grey(128), name)[:, 0, 0, 0].tolist() == (128 + strengths).tolist()
    end = 255 if sign > 0 else 0
    assert (levels_of(grey(end), name) == end).all()


@pytest.mark.parametrize(("name", "sign"), [("gamma_lower", 1), ("gamma_higher", -1)])
def test_gamma_moves_the_middle_but_neither_black_nor_white(name, sign):
    ramp = np.broadcast_to(np.array([0, 128, 255], np.uint8)[None, :, None], (4, 3, 3))
    levels = levels_of(ramp, name)
    assert (levels[:, :, 0] == 0).all()
    assert (levels[:, :, 2] == 255).all()
    assert (np.diff(sign * levels[:, 0, 1, 0].astype(int), prepend=sign * 128) > 0).all()


def test_contrast_is_about_the_mean(photo):
    soft = photo // 2 + 64  # stays off the ends at the weaker levels
    for name in ("contrast_lower", "contrast_higher"):
        for level, factor in zip((1, 2), DISTORTIONS[name].strengths, strict=False):
            result = distort(soft, name, level)
            assert result.mean() == pytest.approx(soft.mean(), abs=0.5)
            assert result.std() / soft.std() == pytest.approx(factor, rel=0.01)


def test_haze_draws_everything_towards_one_light_grey():
    ramp = np.broadcast_to(np.array([0, 100, 235], np.uint8)[None, :, None], (4, 3, 3))
    levels = levels_of(ramp, "haze")[:, 0, :, 0].astype(int)
    assert (levels[:, 2] == 235).all()
    assert (np.diff(levels[:, :2], axis=0) > 0).all()
    assert (levels[-1] < 236).all()


def test_colours_fade_to_grey_or_grow(photo):
    def spread(pixels):
        return np.ptp(pixels.astype(float), axis=2).mean()

    faded = [spread(pixels) for pixels in levels_of(photo, "saturation_lower")]
    grown = [spread(pixels) for pixels in levels_of(photo, "saturation_higher")]
    assert faded[-1] == 0
    assert (np.diff([*faded[::-1], spread(photo), *grown]) > 0).all()


@pytest.mark.parametrize("name", ["hue", "colour_cast"])
def test_turned_colours_keep_their_mean(photo, name):
    soft = photo // 2 + 64
    result = distort(soft, name, 2).astype(float)
    assert np.abs(result.mean(axis=2) - soft.mean(axis=2)).max() < 1
    assert np.abs(result - soft).mean() > 1


def test_hue_leaves_grey_alone():
    assert (levels_of(grey(), "hue") == 128).all()


@pytest.mark.parametrize("name", ["banding", "dithered"])
def test_a_photo_keeps_as_many_values_as_the_strength_says(photo, name):
    for result, strength in zip(levels_of(photo, name), DISTORTIONS[name].strengths, strict=True):
        values = (
            np.unique(result) if name == "banding" else np.unique(result.reshape(-1, 3), axis=0)
        )
        assert strength * 0.6 < len(values) <= strength


def test_strongest_blocking_leaves_flat_blocks_at_their_mean(photo):
    result = distort(photo, "blocking", 5).reshape(20, 8, 20, 8, 3)
    means = photo.reshape(20, 8, 20, 8, 3).mean(axis=(1, 3), keepdims=True)
    assert np.abs(result - means).max() < 1


@pytest.mark.parametrize("seed", range(4))
def test_checkerboard_repeats_every_2_to_4_px_and_keeps_the_mean(seed):
    result = distort(grey(128, (96, 96)), "checkerboard", 3, seed).astype(int)
    assert result.std() > 3
    assert result.mean() == pytest.approx(128, abs=0.5)
    assert any(np.array_equal(result[p:], result[:-p]) for p in (2, 3, 4))


def test_shift_is_by_the_strength_along_an_axis_of_the_seeds_choice(photo):
    seen = set()
    for level, distance in enumerate(DISTORTIONS["shifted"].strengths, start=1):
        offsets = [(distance, 0), (-distance, 0), (0, distance), (0, -distance)]
        moved = [np.roll(photo, offset, axis=(0, 1))[8:-8, 8:-8] for offset in offsets]
        for seed in range(12):
            result = distort(photo, "shifted", level, seed)[8:-8, 8:-8]
            (direction,) = [i for i, other in enumerate(moved) if np.array_equal(result, other)]
            seen.add((seed, direction))
    assert len(seen) == 12  # the same direction at every level
    assert {direction for _, direction in seen} == {0, 1, 2, 3}


def test_rotation_leaves_the_centre_and_moves_the_border(photo):
    error = np.abs(distort(photo, "rotated", 2).astype(float) - photo).mean(axis=2)
    assert error[70:90, 70:90].mean() < error[:20].mean() / 2
