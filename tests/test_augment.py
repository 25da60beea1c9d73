"""Random changes to images: what each does, that nothing else changes, and that a seed says everything."""

import dataclasses
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numbaconv.data import Compose, Cutout, RandomCrop, RandomHorizontalFlip, RandomShift, load_digits, shifted

IMAGES = np.arange(2 * 2 * 3 * 4.0).reshape(2, 2, 3, 4)
ALL = [
    RandomCrop(1),
    RandomCrop(40, fill=-1.5),
    RandomShift(0.75),
    RandomShift(40),
    RandomHorizontalFlip(),
    Cutout(2),
    Cutout(100, fill=3),
    Compose([]),
    Compose([RandomCrop(2), RandomHorizontalFlip(0.3), RandomShift(1), Cutout(1)]),
]


class Drawn(np.random.Generator):
    """A generator that draws what it is told to, for every image the same."""

    def __init__(self, *drawn):
        super().__init__(np.random.PCG64(0))
        self.drawn = list(drawn)

    def integers(self, low, high, shape):
        pair = self.drawn if len(shape) == 2 else [self.drawn.pop(0)]
        assert all(low <= value < high for value in pair)
        return np.broadcast_to(np.array(pair)[:, None], (len(pair), shape[-1])).reshape(shape)

    def uniform(self, low, high, shape):
        assert all(low <= value <= high for value in self.drawn)
        return np.broadcast_to(np.array(self.drawn, float)[:, None], shape)


def images_of(shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# --- what each does --------------------------------------------------------------------------------------------------


def test_crop_shows_another_part_and_padding_beside_it():
    moved = RandomCrop(2, fill=-9)(IMAGES, Drawn(1, -2))
    np.testing.assert_array_equal(moved[:, :, :2, 2:], IMAGES[:, :, 1:, :2])
    np.testing.assert_array_equal(moved[:, :, 2], -9)
    np.testing.assert_array_equal(moved[..., :2], -9)
    np.testing.assert_array_equal(RandomCrop(2)(IMAGES, Drawn(0, 0)), IMAGES)


@given(
    N=st.integers(0, 5), H=st.integers(1, 6), W=st.integers(1, 6), padding=st.integers(0, 8), seed=st.integers(0, 99)
)
def test_crop_is_torchvisions_image_by_image(N, H, W, padding, seed):
    images = images_of((N, 3, H, W))
    result = RandomCrop(padding, fill=0.5)(images, np.random.default_rng(seed))
    offsets = np.random.default_rng(seed).integers(-padding, padding + 1, (2, N)) + padding
    padded = np.pad(images, [(0, 0), (0, 0), (padding, padding), (padding, padding)], constant_values=0.5)
    for n, (down, right) in enumerate(offsets.T):
        np.testing.assert_array_equal(result[n], padded[n, :, down : down + H, right : right + W])


def test_every_crop_is_as_likely_as_any_other():
    images = np.zeros((9000, 1, 5, 5), np.float32)
    images[:, :, 2, 2] = 1
    where = RandomCrop(1)(images, np.random.default_rng(0)).sum((0, 1))
    assert where.sum() == 9000
    np.testing.assert_allclose(where[1:4, 1:4], 1000, atol=150)


def test_shifts_by_whole_pixels_and_halves():
    np.testing.assert_array_equal(RandomShift(1)(IMAGES, Drawn(1, 0))[:, :, :2], IMAGES[:, :, 1:])
    np.testing.assert_array_equal(RandomShift(1)(IMAGES, Drawn(1, 0))[:, :, 2], IMAGES[:, :, 2])  # the edge, again
    np.testing.assert_array_equal(RandomShift(1)(IMAGES, Drawn(0, -1))[..., 1:], IMAGES[..., :-1])
    np.testing.assert_array_equal(RandomShift(1)(IMAGES, Drawn(0, 0.5))[..., :3], IMAGES[..., :3] + 0.5)
    np.testing.assert_array_equal(RandomShift(1)(IMAGES, Drawn(-0.25, 0))[:, :, 1:], IMAGES[:, :, 1:] - 1)
    corner = np.broadcast_to(IMAGES[:, :, -1:, -1:], IMAGES.shape)
    np.testing.assert_array_equal(RandomShift(9)(IMAGES, Drawn(9, 9)), corner)
    np.testing.assert_array_equal(RandomShift(1)(IMAGES[:, :, :1, :1], Drawn(-1, 1)), IMAGES[:, :, :1, :1])


@given(H=st.integers(1, 6), W=st.integers(1, 6), pixels=st.floats(0.01, 12), seed=st.integers(0, 99))
def test_shift_interpolates_linearly_and_repeats_the_edge(H, W, pixels, seed):
    images = images_of((4, 2, H, W), np.float64)
    result = RandomShift(pixels)(images, np.random.default_rng(seed))
    shifts = np.random.default_rng(seed).uniform(-pixels, pixels, (2, 4))
    for n, (down, right) in enumerate(shifts.T):
        rows, columns = np.arange(H) + down, np.arange(W) + right
        by_rows = np.array([[np.interp(rows, range(H), image[:, w]) for w in range(W)] for image in images[n]])
        expected = [[np.interp(columns, range(W), by_rows[c, :, h]) for h in range(H)] for c in range(2)]
        np.testing.assert_allclose(result[n], expected, atol=1e-12)


def test_flip_is_of_whole_images():
    flipped = RandomHorizontalFlip(1)(IMAGES, np.random.default_rng(0))
    np.testing.assert_array_equal(flipped, IMAGES[..., ::-1])
    np.testing.assert_array_equal(RandomHorizontalFlip(0)(IMAGES, np.random.default_rng(0)), IMAGES)
    images = images_of((1000, 2, 3, 4))
    some = RandomHorizontalFlip(0.25)(images, np.random.default_rng(0))
    same = (some == images).all((1, 2, 3))
    assert (same | (some == images[..., ::-1]).all((1, 2, 3))).all()
    assert 700 <= same.sum() <= 800


@pytest.mark.parametrize(
    ("size", "centre", "rows", "columns"),
    [
        (1, (1, 2), slice(1, 2), slice(2, 3)),
        (2, (1, 2), slice(0, 2), slice(1, 3)),
        (3, (0, 3), slice(0, 2), slice(2, 4)),  # part of it outside
        (50, (2, 0), slice(0, 3), slice(0, 4)),
    ],
)
def test_cutout_covers_a_square(size, centre, rows, columns):
    expected = IMAGES.copy()
    expected[:, :, rows, columns] = 7
    np.testing.assert_array_equal(Cutout(size, fill=7)(IMAGES, Drawn(*centre)), expected)


def test_compose_is_one_after_the_other():
    first, second = RandomCrop(1), RandomHorizontalFlip()
    rng = np.random.default_rng(5)
    expected = second(first(IMAGES, rng), rng)
    np.testing.assert_array_equal(Compose([first, second])(IMAGES, np.random.default_rng(5)), expected)
    negative = Compose((lambda images, rng: -images,))  # any callable will do
    np.testing.assert_array_equal(negative(IMAGES, rng), -IMAGES)
    assert Compose([first, second]) == Compose((first, second))


def test_zero_is_the_mean_pixel_of_a_data_set():
    digits = load_digits()
    corner = RandomCrop(8)(digits.train_images[:500], np.random.default_rng(0))
    assert abs(digits.train_images.mean()) < 1e-5
    assert (corner == 0).mean() > 0.5


def test_shifted_is_random_shift():
    one, other = (np.random.default_rng(3) for _ in range(2))
    np.testing.assert_array_equal(shifted(IMAGES, 1.5, one), RandomShift(1.5)(IMAGES, other))


# --- what all do -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augment", ALL, ids=repr)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5, 3, 6, 7), (1, 1, 1, 1), (0, 3, 4, 4), (3, 1, 1, 9)])
def test_shape_dtype_seed_and_an_input_that_stays(augment, dtype, shape):
    images = images_of(shape, dtype)
    images.flags.writeable = False
    result = augment(images, np.random.default_rng(7))
    assert (result.shape, result.dtype) == (shape, dtype)
    again = augment(np.asfortranarray(images), np.random.default_rng(7))
    np.testing.assert_array_equal(result, again)
    assert eval(repr(augment)) == augment
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(augment, dataclasses.fields(augment)[0].name, 0)


def test_images_are_drawn_each_for_itself():
    images = np.broadcast_to(images_of((1, 3, 8, 8)), (64, 3, 8, 8))
    for augment in (RandomCrop(4), RandomShift(2), Cutout(4)):
        result = augment(images, np.random.default_rng(0))
        assert len(np.unique(result.reshape(64, -1), axis=0)) > 20


def test_a_padding_that_is_much_too_large_costs_nothing():
    images = images_of((4, 3, 8, 8))
    assert not RandomCrop(2**31 - 1)(images, np.random.default_rng(0)).any()
    assert np.ptp(RandomShift(2**31 - 1)(images, np.random.default_rng(0)), axis=(2, 3)).max() == 0


def test_a_batch_takes_less_than_a_training_step():
    """On an idle machine crop and flip of this batch take 0.4 ms. The bound is one that a busy machine keeps too."""
    images = images_of((128, 3, 32, 32))
    augment = Compose([RandomCrop(4), RandomHorizontalFlip()])
    rng = np.random.default_rng(0)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        augment(images, rng)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.004


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: RandomCrop(-1), ValueError, "padding must be from 0 to 2147483647, got -1"),
        (lambda: RandomCrop(1.0), TypeError, "padding must be an integer, got 1.0"),
        (lambda: RandomCrop(True), TypeError, "padding must be an integer, got True"),
        (lambda: RandomCrop(10**30), ValueError, "padding must be from 0"),
        (lambda: RandomCrop(1, fill=float("nan")), ValueError, "fill must be a finite number from .*, got nan"),
        (lambda: RandomCrop(1, fill="mean"), TypeError, "fill must be a number, got 'mean'"),
        (lambda: RandomShift(-0.5), ValueError, "pixels must be a finite number from 0 to .*, got -0.5"),
        (lambda: RandomShift(float("inf")), ValueError, "pixels must be a finite number .*, got inf"),
        (lambda: RandomShift(10**400), ValueError, "pixels must be a finite number"),
        (lambda: RandomShift(None), TypeError, "pixels must be a number, got None"),
        (lambda: RandomHorizontalFlip(1.5), ValueError, "p must be a finite number from 0 to 1, got 1.5"),
        (lambda: RandomHorizontalFlip(float("nan")), ValueError, "p must be a finite number from 0 to 1, got nan"),
        (lambda: RandomHorizontalFlip(True), TypeError, "p must be a number, got True"),
        (lambda: Cutout(0), ValueError, "size must be from 1"),
        (lambda: Cutout((2, 2)), TypeError, "size must be an integer"),
        (lambda: Compose(RandomCrop(1)), TypeError, "transforms must be a sequence of callables, got RandomCrop"),
        (lambda: Compose([RandomCrop]), TypeError, "one is <class"),
        (lambda: Compose([RandomCrop(1), "flip"]), TypeError, "one is 'flip'"),
    ],
)
def test_bad_parameters(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("augment", ALL, ids=repr)
@pytest.mark.parametrize(
    ("images", "rng", "error", "message"),
    [
        (IMAGES[0], np.random.default_rng(0), ValueError, r"must be \(N, C, H, W\).* got the shape \(2, 3, 4\)"),
        (IMAGES[:, :, :0], np.random.default_rng(0), ValueError, "none of C, H, W being 0"),
        (IMAGES.astype(np.uint8), np.random.default_rng(0), TypeError, "an array of floats, got uint8"),
        (IMAGES.tolist(), np.random.default_rng(0), TypeError, "an array of floats, got list"),
        (IMAGES, 0, TypeError, "rng must be a numpy.random.Generator, got int"),
        (IMAGES, np.random.RandomState(0), TypeError, "rng must be a numpy.random.Generator, got RandomState"),
    ],
)
def test_bad_batches(augment, images, rng, error, message):
    with pytest.raises(error, match=message):
        augment(images, rng)
