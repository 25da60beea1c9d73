"""The data sets: what is shipped, what is read, and what every kind of bad file is told."""

import gzip
import io
import math
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from data_files import idx_bytes

from numbaconv import data
from numbaconv.data.idx import read_idx

IMAGES = np.random.RandomState(0).randint(0, 256, (20, 6, 5)).astype(np.uint8)
LABELS = np.arange(20) % 4
FIRST_DIGITS_OF_THE_TEST_PART = [3, 7, 3, 9, 0, 8, 7, 0, 8, 0, 3, 3]


def write_idx_folder(folder, pattern="{}-{}-idx{}-ubyte", test="t10k", pack=bytes):
    """A folder as MNIST comes in: 20 images to train on, 8 to test with."""
    for part, count in (("train", 20), (test, 8)):
        if part is not None:
            (folder / pattern.format(part, "images", 3)).write_bytes(pack(idx_bytes(IMAGES[:count])))
            (folder / pattern.format(part, "labels", 1)).write_bytes(pack(idx_bytes(LABELS[:count].astype(np.uint8))))
    return folder


# --- digits ----------------------------------------------------------------------------------------------------------


def test_digits_are_complete_normalised_and_split_for_good():
    digits = data.load_digits()
    assert digits.train_images.shape == (1438, 1, 8, 8)
    assert digits.test_images.shape == (359, 1, 8, 8)
    assert digits.train_images.dtype == digits.test_images.dtype == np.float32
    assert digits.train_labels.dtype == np.int64
    assert np.bincount(digits.test_labels).tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]
    assert (digits.image_shape, digits.classes, digits.scale) == ((1, 8, 8), 10, 16)
    np.testing.assert_allclose([digits.train_images.mean(), digits.train_images.std()], [0, 1], atol=1e-5)
    # The split must never change: accuracies would not compare.
    assert digits.test_labels[:12].tolist() == FIRST_DIGITS_OF_THE_TEST_PART


def test_digits_are_scikit_learns():
    datasets = pytest.importorskip("sklearn.datasets")
    theirs, ours = datasets.load_digits(), data.open_source("digits")
    for part, indices in zip((ours.train, ours.test), data.stratified_split(theirs.target), strict=True):
        np.testing.assert_array_equal(part.images[:, 0], theirs.images[indices])
        np.testing.assert_array_equal(part.labels, theirs.target[indices])


# --- arrays ----------------------------------------------------------------------------------------------------------


def test_normalisation_is_by_channel_and_can_be_repeated():
    images = np.random.RandomState(1).randint(0, 200, (30, 5, 4, 3)).astype(np.uint8)
    images[..., 1] = 7  # constant: shifted to 0, not divided by 0
    dataset = data.Dataset.from_arrays(images, np.arange(30) % 3)
    train, _ = data.stratified_split(np.arange(30) % 3)
    scaled = images[train].astype(float) / 255
    np.testing.assert_allclose(dataset.mean, scaled.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(np.array(dataset.std)[[0, 2]], scaled.std((0, 1, 2))[[0, 2]], rtol=1e-12)
    assert not dataset.train_images[:, 1].any()
    again = data.prepare(images[train].transpose(0, 3, 1, 2), dataset.scale, dataset.mean, dataset.std)
    np.testing.assert_array_equal(again, dataset.train_images)
    as_floats = data.prepare((images[train] / 255).transpose(0, 3, 1, 2), dataset.scale, dataset.mean, dataset.std)
    np.testing.assert_allclose(as_floats, dataset.train_images, atol=1e-5)


@pytest.mark.parametrize(
    ("images", "scale"),
    [
        (IMAGES, 255),
        (IMAGES.astype(np.int64), 255),
        (IMAGES / 255, 255),  # floats within 0 to 1 stand for pixels
        ((IMAGES / 255).astype(np.float16), 255),
        (IMAGES.astype(np.float32), 1),  # floats with a range of their own are left in it
        (IMAGES / 100 - 1, 1),
    ],
)
def test_scale(images, scale):
    dataset = data.Dataset.from_arrays(images, LABELS)
    assert dataset.scale == scale
    reference = data.Dataset.from_arrays(IMAGES, LABELS)
    np.testing.assert_allclose(dataset.train_images, reference.train_images, atol=5e-3)  # float16 has 11 bits


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((9, 6, 5), (1, 6, 5)),
        ((9, 1, 6, 5), (1, 6, 5)),
        ((9, 6, 5, 1), (1, 6, 5)),
        ((9, 3, 6, 5), (3, 6, 5)),
        ((9, 6, 5, 3), (3, 6, 5)),
        ((9, 4, 6, 5), (4, 6, 5)),
        ((9, 4, 4, 1), (4, 4, 1)),  # both would do: channels first
    ],
)
def test_shapes(shape, expected):
    images = np.random.RandomState(0).random(shape)
    dataset = data.Dataset.from_arrays(images, np.arange(9) % 3)
    assert dataset.image_shape == expected
    assert dataset.train_images.flags.c_contiguous


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES[0], LABELS, r"\(N, H, W\).*got \(6, 5\).*array\[None\]"),
        (IMAGES.reshape(20, 30), LABELS, "images must be"),
        (IMAGES.reshape(2, 5, 2, 6, 5), LABELS, "images must be"),
        (np.zeros((20, 5, 6, 2), np.uint8), LABELS, r"1, 3 or 4 channels, got the shape \(20, 5, 6, 2\)"),
        (IMAGES[:0], LABELS[:0], "no images"),
        (IMAGES[:, :0], LABELS, "no images"),
        (IMAGES.astype(np.int32) - 1, LABELS, "from 0 to 255, got -1 to"),
        (IMAGES.astype(np.uint16) + 1, LABELS, "from 0 to 255, got 1 to 256"),
        (IMAGES > 100, LABELS, "integers or floats, got bool"),
        (IMAGES.astype(np.complex64), LABELS, "integers or floats, got complex64"),
        (IMAGES.astype(str), LABELS, "integers or floats, got <U3"),
        (np.where(IMAGES > 254, np.nan, 1.0), LABELS, "finite float32 numbers, but .* are not"),
        (IMAGES * 1e38, LABELS, "finite float32 numbers, but .* are not"),
        (IMAGES, LABELS[:19], "19 labels for 20 images"),
        (IMAGES, LABELS - 1, "from 0 to 9999, got -1 to 2"),
        (IMAGES, LABELS + 9999, "from 0 to 9999, got 9999 to 10002"),
        (IMAGES, LABELS.astype(float), "labels must be integers, got float64"),
        (IMAGES, np.eye(4)[LABELS], r"got the shape \(20, 4\): one-hot labels are array.argmax\(1\)"),
        (IMAGES, np.arange(20), "no class has two images"),
        (IMAGES, None, "has no labels"),
    ],
)
def test_bad_arrays(images, labels, message):
    with pytest.raises(ValueError, match=message) as caught:
        data.Dataset.from_arrays(images, labels, name="these")
    assert str(caught.value).startswith("these: ")
    assert "\n" not in str(caught.value)


def test_bad_test_parts():
    with pytest.raises(ValueError, match=r"training images are \(1, 6, 5\), the test images \(1, 5, 6\)"):
        data.Dataset.from_arrays(IMAGES, LABELS, IMAGES.transpose(0, 2, 1), LABELS)
    with pytest.raises(ValueError, match=r"test\): has no labels"):
        data.Dataset.from_arrays(IMAGES, LABELS, IMAGES)
    with pytest.raises(ValueError, match="float pixels must be from 0 to 1, as in training, got 0 to 255"):
        data.Dataset.from_arrays(IMAGES, LABELS, IMAGES.astype(float), LABELS)


def test_prepare_refuses_what_training_did_not_see():
    with pytest.raises(ValueError, match="have 3 channels, the normalisation is for 1"):
        data.prepare(np.zeros((1, 3, 8, 8), np.uint8), 255, (0.5,), (0.2,))
    with pytest.raises(ValueError, match="x: integer pixels must be from 0 to 16, as in training, got 0 to 255"):
        data.prepare(IMAGES[:, None] // 255 * 255, 16, (0.5,), (0.2,), where="x")
    assert data.prepare(IMAGES[:, None].astype(float), 1, (0.5,), (0.2,)).dtype == np.float32


def test_prepare_knows_that_other_images_have_another_scale():
    """An image file of a digit, for a model that has seen ink counted from 0 to 16."""
    ink = np.arange(17, dtype=np.uint8).reshape(1, 1, 1, 17)
    normalisation = 16, (0.3,), (0.4,)
    as_file = np.round(ink * (255 / 16)).astype(np.uint8)
    prepared = data.prepare(as_file, *normalisation, own_scale=255)
    np.testing.assert_allclose(prepared, data.prepare(ink, *normalisation), atol=0.006)
    np.testing.assert_array_equal(
        data.prepare(ink / 16, *normalisation, own_scale=255), data.prepare(ink / 16, *normalisation)
    )


def test_inputs_are_left_alone():
    images = (IMAGES / 255).astype(np.float32)
    before = images.copy()
    data.Dataset.from_arrays(images, LABELS)
    np.testing.assert_array_equal(images, before)


# --- split -----------------------------------------------------------------------------------------------------------


def test_split_is_stratified_and_the_same_every_time():
    labels = np.repeat([0, 1, 5], [100, 10, 3])
    train, test = data.stratified_split(labels)
    assert np.bincount(labels[test]).tolist() == [20, 2, 0, 0, 0, 1]
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(113))
    np.testing.assert_array_equal(test, data.stratified_split(labels)[1])
    assert not np.array_equal(test, data.stratified_split(labels, seed=1)[1])


def test_split_leaves_something_to_train_on():
    train, test = data.stratified_split(np.array([0, 1, 1, 2, 2, 2]))
    assert train.tolist()[0] == 0  # the only one of its class
    assert len(test) == 2


# --- npz -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("names", [("images", "labels"), ("x", "y"), ("X", "y"), ("x_train", "y_train")])
def test_npz_that_has_to_be_split(tmp_path, save, names):
    save(tmp_path / "a.npz", **dict(zip(names, (IMAGES, LABELS), strict=True)), other=np.array("not looked at"))
    dataset = data.load_npz(tmp_path / "a.npz")
    assert (len(dataset.train_images), len(dataset.test_images)) == (16, 4)
    assert (dataset.name, dataset.classes) == ("a.npz", 4)


@pytest.mark.parametrize(
    "names",
    [("x_train", "y_train", "x_test", "y_test"), ("train_images", "train_labels", "test_images", "test_labels")],
)
def test_npz_with_a_test_part(tmp_path, names):
    arrays = (IMAGES, LABELS[:, None].astype(np.uint8), IMAGES[:3], LABELS[:3])
    np.savez(tmp_path / "a.npz", **dict(zip(names, arrays, strict=True)))
    dataset = data.load(str(tmp_path / "a.npz"))
    np.testing.assert_array_equal(dataset.train_labels, LABELS)
    np.testing.assert_array_equal(dataset.test_images, dataset.train_images[:3])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pixels": IMAGES, "classes": LABELS}, "looked for under .* holds classes, pixels"),
        ({}, "holds no arrays"),
        ({"labels": LABELS}, r"has labels \(labels\), but no images to go with them"),
        ({"images": IMAGES}, "images: has no labels"),
        ({"x_test": IMAGES, "y_test": LABELS}, "has a test part only"),
        ({"images": IMAGES, "labels": LABELS[:7]}, "labels: 7 labels for 20 images"),
        ({"images": IMAGES.astype(object), "labels": LABELS}, "images: must hold integers or floats, got object"),
        ({"images": IMAGES, "labels": LABELS.astype("U1")}, "labels: must hold integers or floats, got <U1"),
    ],
)
def test_bad_npz(tmp_path, arrays, message):
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        data.load(path)
    assert "bad.npz" in str(caught.value)


def test_an_archive_with_strange_names(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for n in range(20):
            archive.writestr(f"{n:02}\n" + "x" * 30_000, b"")
    with pytest.raises(ValueError, match="the archive holds 00 xxx") as caught:
        data.load(tmp_path / "a.npz")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_npz_is_never_larger_than_it_says(tmp_path):
    """Headers that promise more than follows are refused before memory is taken for them."""
    header = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|u1', 'fortran_order': False, 'shape': (99999, 99999, 999), }"
    header = header.ljust(127) + b"\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", header + bytes(100))
    (tmp_path / "a.npy").write_bytes(header + bytes(100))
    for name in ("a.npz", "a.npy"):
        with pytest.raises(ValueError, match=r"header says \(99999, 99999, 999\) .* but 100 bytes follow"):
            data.open_source(tmp_path / name)


def test_an_npz_bomb_is_not_unpacked(tmp_path):
    """Both headers agree on a size that cannot be in so small a file; or another method than NumPy's packs it."""
    path = tmp_path / "a.npz"
    header, shape = io.BytesIO(), (1 << 20, 64, 63)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", header.getvalue())
    size = len(header.getvalue())
    claimed = struct.pack("<I", size + math.prod(shape))
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", size), claimed))
    with pytest.raises(ValueError, match="images: cannot be read: it is compressed more than"):
        data.load(path)
    stream = io.BytesIO()
    np.save(stream, np.zeros((1 << 15, 32, 32), np.uint8))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("images.npy", stream.getvalue())
    with pytest.raises(ValueError, match="images: cannot be read: it is compressed more than"):
        data.load(path)


def test_damaged_npz(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=IMAGES, labels=LABELS)
    good = path.read_bytes()
    for damaged in (good[:-30], good[:40], good[:100] + bytes(50) + good[150:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.npz: "):
            data.load_npz(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"is not a \.npz archive"):
        data.load_npz(path)


# --- idx -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "test", "pack"),
    [
        ("{}-{}-idx{}-ubyte", "t10k", bytes),
        ("{}-{}-idx{}-ubyte.gz", "t10k", gzip.compress),
        ("{}-{}.idx{}-ubyte", "t10k", bytes),
        ("{}-{}-idx{}-ubyte", "t10k", gzip.compress),  # the first bytes tell, not the name
        ("emnist-letters-{}-{}-idx{}-ubyte.gz", "test", gzip.compress),
    ],
)
def test_idx_folder(tmp_path, pattern, test, pack):
    dataset = data.load(write_idx_folder(tmp_path, pattern, test, pack))
    reference = data.Dataset.from_arrays(IMAGES, LABELS, IMAGES[:8], LABELS[:8])
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(dataset, name), getattr(reference, name))
    assert dataset.name == tmp_path.name


def test_idx_folder_without_a_test_part_is_split(tmp_path):
    assert len(data.load_idx_folder(write_idx_folder(tmp_path, test=None)).test_images) == 4


def test_of_plain_and_gzip_the_plain_file_is_read(tmp_path):
    write_idx_folder(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8bdamaged")
    assert len(data.load_idx_folder(tmp_path).train_images) == 20


def test_idx_dtypes(tmp_path):
    for code, dtype in ((0x09, ">i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")):
        array = np.arange(-3, 3).astype(dtype).reshape(3, 2)
        (tmp_path / "a").write_bytes(idx_bytes(array, code))
        read = read_idx(tmp_path / "a")
        np.testing.assert_array_equal(read, array)
        assert read.dtype.isnative


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with nothing"),
        (b"\0\0\x08", "begins with 00 00 08,"),
        (b"\0\1\x08\3" + bytes(12), "begins with 00 01 08 03"),
        (b"\0\0\x07\3" + bytes(12), "begins with 00 00 07 03"),
        (b"\0\0\x08\0", "01 to 04 dimensions"),
        (b"\0\0\x08\5" + bytes(20), "01 to 04 dimensions"),
        (b"\0\0\x08\3" + bytes(11), "ends within its header"),
        (idx_bytes(IMAGES)[:-1], r"header says \(20, 6, 5\) of uint8, 600 bytes, but 599 follow"),
        (idx_bytes(IMAGES) + b"\0", "600 bytes, but 601 follow"),
        (idx_bytes(IMAGES, shape=(2**32 - 1,) * 4), "but 596 follow|but 600 follow"),
        (gzip.compress(idx_bytes(IMAGES))[:-9], "is damaged: Compressed file ended"),
        (gzip.compress(idx_bytes(IMAGES))[:-5] + bytes(5), "is damaged: "),
        (gzip.compress(idx_bytes(IMAGES, shape=(40, 6, 5))), "1,200 bytes, but 600 follow"),
        (gzip.compress(idx_bytes(IMAGES, shape=(10, 6, 5))), "more follows than the 300 bytes"),
        (gzip.compress(idx_bytes(IMAGES, shape=(2**32 - 1,) * 3)), "more than the compressed file can hold"),
        (gzip.compress(b"", mtime=0), "begins with nothing"),
        (b"\x1f\x8b\x08", "is damaged"),
    ],
)
def test_bad_idx(tmp_path, content, message):
    write_idx_folder(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        data.load(tmp_path)
    assert str(tmp_path / "train-images-idx3-ubyte") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_gzip_bomb_is_not_unpacked(tmp_path):
    """What follows after the promised bytes is not even decompressed."""
    bomb = idx_bytes(IMAGES) + bytes(1 << 28)
    (tmp_path / "bomb").write_bytes(gzip.compress(bomb, 1))
    with pytest.raises(ValueError, match="more follows than the 600 bytes"):
        read_idx(tmp_path / "bomb")


def test_idx_folders_that_do_not_fit(tmp_path):
    with pytest.raises(FileNotFoundError, match="there are no idx files"):
        data.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        data.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        data.load_idx_folder(tmp_path / "nowhere")
    write_idx_folder(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(LABELS[:9].astype(np.uint8)))
    with pytest.raises(ValueError, match="train-labels-idx1-ubyte: 9 labels for 20 images"):
        data.load(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match="train-images-idx3-ubyte: has no labels"):
        data.load(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="t10k-images-idx3-ubyte: is missing beside t10k-labels-idx1-ubyte"):
        data.load(tmp_path)
    write_idx_folder(tmp_path, "kmnist-{}-{}-idx{}-ubyte")
    with pytest.raises(ValueError, match="holds several data sets"):
        data.load(tmp_path)


# --- names -----------------------------------------------------------------------------------------------------------


def test_images_alone_can_be_opened_but_not_trained_on(tmp_path):
    np.save(tmp_path / "a.npy", IMAGES)
    (tmp_path / "images.gz").write_bytes(gzip.compress(idx_bytes(IMAGES)))
    for name in ("a.npy", "images.gz"):
        samples = data.open_source(tmp_path / name).all_or_test()
        np.testing.assert_array_equal(samples.images[:, 0], IMAGES)
        assert samples.labels is None
        with pytest.raises(ValueError, match="has no labels"):
            data.load(tmp_path / name)


def test_an_idx_file_of_images_finds_its_labels(tmp_path):
    write_idx_folder(tmp_path)
    samples = data.open_source(tmp_path / "t10k-images-idx3-ubyte").all_or_test()
    np.testing.assert_array_equal(samples.labels, LABELS[:8])


def test_what_is_no_data_set(tmp_path):
    (tmp_path / "notes.txt").write_text("3 1 4 1 5")
    with pytest.raises(ValueError, match=r"notes\.txt: is none of a \.npz archive, a \.npy array"):
        data.load(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match="is not a file"):
        data.load_npz(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        data.load_idx_folder(tmp_path / "notes.txt")


def test_the_examples_of_the_documentation():
    text = (Path(__file__).parent.parent / "docs" / "data.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert len(examples) == 2
    for example in examples:
        exec(example, {})
