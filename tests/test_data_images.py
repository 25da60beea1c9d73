"""PNG and JPEG files: what becomes of their pixels, folders by class, and what is refused."""

import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from data_files import picture
from hypothesis import given
from hypothesis import strategies as st

from numbaconv import data, nn
from numbaconv.cli import main

pytest.importorskip("PIL")
from PIL import Image

RANDOM = np.random.RandomState(0)
GREY = RANDOM.randint(0, 256, (6, 4)).astype(np.uint8)
COLOUR = RANDOM.randint(0, 256, (6, 4, 3)).astype(np.uint8)


def write_classes(folder, classes=("cat", "dog"), count=5, shape=(6, 4, 3), seed=0):
    """A sub-folder for each class; image ``i`` of a class differs from all others."""
    random = np.random.RandomState(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            (folder / name / f"{i}.png").write_bytes(picture(random.randint(0, 256, shape).astype(np.uint8)))
    return folder


def opened(tmp_path, content, name="a.png", **options):
    """The one image in a file, ``(C, H, W)``."""
    (tmp_path / name).write_bytes(content)
    [image] = data.open_source(tmp_path / name, **options).all_or_test().images
    return image


# --- pixels ----------------------------------------------------------------------------------------------------------


def test_png_is_exact(tmp_path):
    np.testing.assert_array_equal(opened(tmp_path, picture(GREY)), GREY[None])
    np.testing.assert_array_equal(opened(tmp_path, picture(COLOUR)), COLOUR.transpose(2, 0, 1))


@given(H=st.integers(1, 9), W=st.integers(1, 9), C=st.sampled_from([1, 3]), seed=st.integers(0, 9))
def test_png_is_exact_whatever_its_size(tmp_path_factory, H, W, C, seed):
    array = np.random.RandomState(seed).randint(0, 256, (H, W, C)).astype(np.uint8)
    folder = tmp_path_factory.mktemp("png")
    np.testing.assert_array_equal(
        opened(folder, picture(array.squeeze(2) if C == 1 else array)), array.transpose(2, 0, 1)
    )


def test_jpeg_is_near(tmp_path):
    smooth = np.add.outer(np.arange(16), np.arange(24)).astype(np.uint8)[..., None] * np.array([1, 2, 3], np.uint8)
    content = picture(smooth, "JPEG", quality=100, subsampling=0)
    read = opened(tmp_path, content, "a.JPEG")
    np.testing.assert_allclose(read.transpose(1, 2, 0).astype(int), smooth, atol=4)
    assert opened(tmp_path, picture(GREY, "JPEG"), "b.jpg").shape == (1, 6, 4)


def test_a_palette_is_looked_up(tmp_path):
    eight = COLOUR // 128 * 255
    palette = Image.fromarray(eight).quantize(8)
    assert palette.mode == "P"
    palette.save(tmp_path / "p.png")
    [image] = data.open_source(tmp_path / "p.png").all_or_test().images
    np.testing.assert_array_equal(image, eight.transpose(2, 0, 1))


def test_sixteen_bits_are_cut_to_eight(tmp_path):
    deep = (GREY.astype(np.uint16) << 8) + 255 - GREY
    np.testing.assert_array_equal(opened(tmp_path, picture(deep)), GREY[None])


def test_one_bit_is_black_and_white(tmp_path):
    np.testing.assert_array_equal(opened(tmp_path, picture(GREY > 127)), np.where(GREY > 127, 255, 0)[None])


def test_what_is_transparent_lies_on_white(tmp_path):
    alpha = np.where(np.arange(6)[:, None] < 3, 255, np.zeros((6, 4), int)).astype(np.uint8)
    read = opened(tmp_path, picture(np.dstack([COLOUR, alpha])))
    np.testing.assert_array_equal(read[:, :3], COLOUR.transpose(2, 0, 1)[:, :3])
    np.testing.assert_array_equal(read[:, 3:], 255)
    read = opened(tmp_path, picture(np.dstack([GREY, alpha])))
    assert read.shape == (1, 6, 4)
    np.testing.assert_array_equal(read[0, :3], GREY[:3])
    np.testing.assert_array_equal(read[0, 3:], 255)


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(tmp_path, format, orientation):
    """Orientation 6, for one: the camera was held so that the first row of the file is the picture's right side."""
    upright = np.kron(np.arange(6).reshape(2, 3), np.full((8, 8), 40)).astype(np.uint8)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: np.rot90(upright, 2).T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    read = opened(tmp_path, picture(np.ascontiguousarray(stored), format, exif=exif))
    np.testing.assert_allclose(read[0].astype(int), upright, atol=3)


def test_channels_and_size_that_a_model_takes(tmp_path):
    grey = opened(tmp_path, picture(COLOUR), channels=1)
    np.testing.assert_allclose(grey[0], COLOUR @ [0.299, 0.587, 0.114], atol=1)
    np.testing.assert_array_equal(opened(tmp_path, picture(GREY), channels=3), np.stack([GREY] * 3))
    halves = np.kron(GREY, np.ones((2, 2), np.uint8))
    assert opened(tmp_path, picture(halves), size=(6, 4)).shape == (1, 6, 4)
    wide = np.zeros((8, 20), np.uint8)
    wide[:, 4:16] = 200
    np.testing.assert_array_equal(opened(tmp_path, picture(wide), size=4), np.full((1, 4, 4), 200))  # around its centre
    for wrong, error in ((0, ValueError), (2.5, TypeError), ((1, 2, 3), (TypeError, ValueError)), (10**5, ValueError)):
        with pytest.raises(error, match="size"):
            data.open_source(tmp_path / "a.png", size=wrong)
    with pytest.raises(TypeError, match="channels must be an integer"):
        data.open_source(tmp_path / "a.png", channels="RGB")


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_by_class(tmp_path):
    write_classes(tmp_path, ("dog", "cat", "ape"))
    for distraction in (".hidden", ".git"):
        (tmp_path / distraction).mkdir()
        (tmp_path / "cat" / f"{distraction}.png").write_bytes(b"")
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    source = data.open_source(tmp_path)
    assert source.class_names == ("ape", "cat", "dog")
    assert source.train.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert source.train.names[4:6] == ("ape/4.png", "cat/0.png")
    cat = np.asarray(Image.open(tmp_path / "cat" / "3.png"))
    np.testing.assert_array_equal(source.train.images[8], cat.transpose(2, 0, 1))
    dataset = data.load_image_folder(tmp_path)
    assert (dataset.classes, dataset.image_shape, len(dataset.test_labels)) == (3, (3, 6, 4), 3)
    assert (dataset.class_names, dataset.name) == (("ape", "cat", "dog"), tmp_path.name)


def test_classes_that_are_numbers_are_counted(tmp_path):
    write_classes(tmp_path, [str(n) for n in range(11)], count=2)
    assert data.open_source(tmp_path).class_names[9:] == ("9", "10")


@pytest.mark.parametrize("test", ["test", "val", "Validation"])
def test_a_folder_in_parts(tmp_path, test):
    write_classes(tmp_path / "Train" if test == "Validation" else tmp_path / "train")
    write_classes(tmp_path / test, ("dog",), seed=1)  # a class may be missing there
    write_classes(tmp_path / "unused")
    source = data.open_source(tmp_path)
    assert source.class_names == ("cat", "dog")
    assert (len(source.train.labels), source.test.labels.tolist()) == (10, [1] * 5)
    assert data.load(tmp_path).classes == 2


def test_of_test_and_val_the_first_is_taken(tmp_path):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "val", seed=1)
    write_classes(tmp_path / "test", count=3, seed=2)
    assert len(data.open_source(tmp_path).test.labels) == 6


def test_a_class_may_be_called_train(tmp_path):
    write_classes(tmp_path, ("bus", "train"))
    assert data.open_source(tmp_path).class_names == ("bus", "train")


def test_grey_among_coloured_images_has_three_channels(tmp_path):
    write_classes(tmp_path, shape=(6, 4))
    assert data.load(tmp_path).image_shape == (1, 6, 4)
    (tmp_path / "dog" / "0.png").write_bytes(picture(COLOUR))
    images = data.open_source(tmp_path).train.images
    assert images.shape == (10, 3, 6, 4)
    np.testing.assert_array_equal(images[5], COLOUR.transpose(2, 0, 1))
    np.testing.assert_array_equal(images[6, 0], images[6, 2])


def test_sizes_that_differ(tmp_path):
    write_classes(tmp_path)
    (tmp_path / "dog" / "2.png").write_bytes(picture(np.zeros((8, 9, 3), np.uint8)))
    with pytest.raises(ValueError, match=r"dog/2.png: is 9x8 pixels, but 0.png 4x6: .* one size, or be brought to one"):
        data.load(tmp_path)
    assert data.load(tmp_path, size=(5, 7)).image_shape == (3, 5, 7)
    assert data.load_image_folder(tmp_path, size=6).image_shape == (3, 6, 6)


def test_images_without_labels(tmp_path):
    for n, name in enumerate(("b.png", "a.png", "c.PNG")):
        (tmp_path / name).write_bytes(picture(GREY + np.uint8(n)))
    samples = data.open_source(tmp_path).all_or_test()
    assert (samples.labels, samples.names) == (None, ("a.png", "b.png", "c.PNG"))
    np.testing.assert_array_equal(samples.images[:, 0], [GREY + np.uint8(n) for n in (1, 0, 2)])
    with pytest.raises(ValueError, match="has no labels"):
        data.load(tmp_path)
    with pytest.raises(ValueError, match=r"a\.png: has no labels"):
        data.load(tmp_path / "a.png")


def test_folders_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="there are no idx files, CIFAR batches, PNG or JPEG images"):
        data.load(tmp_path)
    write_classes(tmp_path / "a")
    (tmp_path / "a" / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: holds no PNG or JPEG images"):
        data.load(tmp_path / "a")
    write_classes(tmp_path / "b")
    (tmp_path / "b" / "stray.png").write_bytes(picture(GREY))
    with pytest.raises(ValueError, match=r"b: holds images \(stray.png, ...\) beside folders"):
        data.load(tmp_path / "b")
    write_classes(tmp_path / "c" / "train")
    write_classes(tmp_path / "c" / "test", ("cow",))
    with pytest.raises(ValueError, match=r"cow: is no class that there is to train on \(cat, dog\)"):
        data.load(tmp_path / "c")
    (tmp_path / "d").mkdir()
    for reader in (data.load_image_folder, lambda path: data.open_source(path / "nowhere.png")):
        with pytest.raises(FileNotFoundError):
            reader(tmp_path / "d")


def test_links_do_not_lead_out_of_the_folder(tmp_path):
    write_classes(tmp_path / "mine")
    write_classes(tmp_path / "other", ("cow",))
    within = tmp_path / "mine" / "dog" / "link.png"
    within.symlink_to(tmp_path / "mine" / "cat" / "0.png")
    (tmp_path / "mine" / "dog" / "broken.png").symlink_to("nowhere")
    assert len(data.open_source(tmp_path / "mine").train.labels) == 11
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    assert len(data.open_source(tmp_path / "link").train.labels) == 11  # the folder itself may be named by one
    for link in (tmp_path / "mine" / "dog" / "out.png", tmp_path / "mine" / "cow"):
        link.symlink_to(tmp_path / "other" / "cow" / ("0.png" if link.suffix else ""))
        with pytest.raises(ValueError, match=r"(out\.png|cow): is a symbolic link that leads out of the folder"):
            data.open_source(tmp_path / "mine")
        link.unlink()
    loop = tmp_path / "mine" / "dog" / "loop.png"
    loop.symlink_to(loop)
    assert len(data.open_source(tmp_path / "mine").train.labels) == 11


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_are_not_waited_for(tmp_path):
    write_classes(tmp_path)
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    assert len(data.open_source(tmp_path).train.labels) == 10


# --- damage ----------------------------------------------------------------------------------------------------------


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(width, height):
    """A PNG of a few bytes that says that it has that many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(b""))
        + png_chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bomb(5000, 5000), r"5000x5000 pixels in \d+ bytes are too many"),
        (bomb(11000, 11000), r"11000x11000 pixels in \d+ bytes are too many"),
        (bomb(60000, 60000), "is not a PNG or JPEG image, or a damaged one"),
        (bomb(2**31 - 1, 2**31 - 1), "is not a PNG or JPEG image, or a damaged one"),
        (bomb(0, 5), "is not a PNG or JPEG image, or a damaged one"),
        (bomb(50, 50), "is not a PNG or JPEG image, or a damaged one"),
        (picture(COLOUR)[:-40], "or a damaged one: "),
        (picture(COLOUR)[:40], "or a damaged one"),
        (picture(COLOUR, "JPEG")[:-60], "or a damaged one: "),
        (b"", "or a damaged one"),
        (b"GIF89a" + bytes(50), "or a damaged one"),
        (picture(COLOUR, "GIF"), "or a damaged one"),  # an image, but of a format that is not asked for
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "or a damaged one"),
    ],
)
def test_damaged_images(tmp_path, recwarn, content, message):
    write_classes(tmp_path)
    (tmp_path / "dog" / "0.png").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        data.load(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "dog" / "0.png"))
    assert "\n" not in str(caught.value)
    assert not recwarn.list


def test_a_large_image_that_is_honest(tmp_path):
    """More pixels than are read whatever the size of the file; a blank one, which is the smallest file."""
    blank = np.full((1500, 1000), 9, np.uint8)
    assert opened(tmp_path, picture(blank)).shape == (1, 1500, 1000)
    assert opened(tmp_path, picture(blank, "JPEG"), "a.jpg").shape == (1, 1500, 1000)


def test_without_pillow(tmp_path, monkeypatch, capsys):
    write_classes(tmp_path / "pets")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r'images need Pillow: pip install "numbaconv\[images\]"'):
        data.load(tmp_path / "pets")
    assert main(["train", "--data", str(tmp_path / "pets")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_pillow_is_not_loaded_for_other_data():
    code = "import sys, numbaconv.data; numbaconv.data.load('digits'); sys.exit('PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- as a user -------------------------------------------------------------------------------------------------------


def test_training_and_predicting_by_name(tmp_path, monkeypatch, capsys):
    """Dark and bright images; the names of the classes are kept with the model, in whatever order data has them."""
    monkeypatch.chdir(tmp_path)
    random = np.random.RandomState(0)
    for name, level in (("bright", 200), ("dark", 20)):
        (tmp_path / "sky" / name).mkdir(parents=True)
        for i in range(20):
            content = picture((level + random.randint(0, 30, (8, 8, 3))).astype(np.uint8))
            (tmp_path / "sky" / name / f"{i}.png").write_bytes(content)
    assert main(["train", "--data", "sky", "--epochs", "3", "--output", "m.npz"]) == 0
    _, metadata = nn.load_model("m.npz")
    assert metadata["class_names"] == ["bright", "dark"]
    (tmp_path / "night.png").write_bytes(picture(np.full((30, 40), 15, np.uint8)))  # grey, and of another size
    capsys.readouterr()
    assert main(["predict", "m.npz", "night.png"]) == 0
    assert capsys.readouterr().out.split()[3:5] == ["night.png", "dark"]
    write_classes(tmp_path / "only", ("dark",), count=2)
    for path in (tmp_path / "only" / "dark").iterdir():
        path.write_bytes(picture(np.full((8, 8, 3), 25, np.uint8)))
    assert main(["predict", "m.npz", "only", "--output", "p.csv"]) == 0
    assert "accuracy 100.00% (2 of 2 images)" in capsys.readouterr().out
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert lines[0] == "image,label,prediction,probability"
    assert lines[1].startswith("dark/0.png,dark,dark,")
    (tmp_path / "only" / "dark").rename(tmp_path / "only" / "dusk")
    assert main(["predict", "m.npz", "only"]) == 2
    assert "only: has the classes dusk, which are none of bright, dark" in capsys.readouterr().err
