"""CIFAR's batches, and that a pickle is read without being run."""

import builtins
import os
import pickle
import pickletools
import tracemalloc

import numpy as np
import pytest
from data_files import (
    CIFAR10_NAMES,
    CIFAR_IMAGES,
    CIFAR_LABELS,
    array2,
    cifar10_batch,
    cifar100_bin,
    text2,
    write_cifar10,
)

from numbaconv import data
from numbaconv.data.pickles import read_pickle

FINE_LABELS = np.arange(12) * 9


def check_cifar10(source):
    assert source.train.images.shape == (60, 3, 32, 32)
    for i in range(5):
        np.testing.assert_array_equal(source.train.images[12 * i : 12 * i + 12], CIFAR_IMAGES + np.uint8(i))
    np.testing.assert_array_equal(source.train.labels, np.tile(CIFAR_LABELS, 5))
    np.testing.assert_array_equal(source.test.images, 255 - CIFAR_IMAGES)
    np.testing.assert_array_equal(source.test.labels, CIFAR_LABELS[::-1])
    assert source.class_names == tuple(CIFAR10_NAMES)


@pytest.mark.parametrize("version", ["py", "bin"])
def test_cifar10(tmp_path, version):
    folder = write_cifar10(tmp_path / "my cifar", version)
    check_cifar10(data.open_source(folder))
    dataset = data.load(folder)
    assert (dataset.name, dataset.classes, dataset.class_names) == ("my cifar", 10, tuple(CIFAR10_NAMES))
    again = data.load_cifar_folder(folder)
    np.testing.assert_array_equal(dataset.train_images, again.train_images)


def test_the_batches_in_these_tests_are_what_pickle_reads_too():
    """Which shows that the reader is tested on real ones."""
    held = pickle.loads(cifar10_batch(CIFAR_IMAGES, CIFAR_LABELS), encoding="bytes")
    np.testing.assert_array_equal(held[b"data"].reshape(CIFAR_IMAGES.shape), CIFAR_IMAGES)
    assert held[b"labels"] == CIFAR_LABELS.tolist()


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("order", "CF")
def test_batches_that_were_pickled_again(tmp_path, protocol, order):
    """As people do who cut CIFAR-10 down. In protocol 2 Python 3 writes bytes in a way of its own, with a call."""
    folder = write_cifar10(tmp_path)
    for path in folder.iterdir():
        held = pickle.loads(path.read_bytes(), encoding="bytes" if "batch_" in path.name else "latin-1")
        held = {key: np.array(value, order=order) if key == b"data" else value for key, value in held.items()}
        if protocol == 2:
            held = {key.decode() if isinstance(key, bytes) else key: value for key, value in held.items()}
        path.write_bytes(pickle.dumps(held, protocol))
    if protocol == 2:
        with pytest.raises(ValueError, match="asks for '_codecs encode'"):
            data.open_source(folder)
    else:
        source = data.open_source(folder)
        np.testing.assert_array_equal(source.train.images[:12], CIFAR_IMAGES)


def test_cifar100_has_its_fine_labels(tmp_path):
    names = [f"class {n}" for n in range(100)]
    binary, python = tmp_path / "binary", tmp_path / "python"
    binary.mkdir()
    python.mkdir()
    for part in ("train", "test"):
        (binary / f"{part}.bin").write_bytes(cifar100_bin(CIFAR_IMAGES, FINE_LABELS))
        held = {
            b"data": CIFAR_IMAGES.reshape(12, -1),
            b"coarse_labels": [0] * 12,
            b"fine_labels": FINE_LABELS.tolist(),
        }
        (python / part).write_bytes(pickle.dumps(held, 3))
    (binary / "fine_label_names.txt").write_text("\n".join(names))
    (python / "meta").write_bytes(pickle.dumps({"fine_label_names": names}, 3))
    for folder in (binary, python):
        source = data.open_source(folder)
        np.testing.assert_array_equal(source.train.images, CIFAR_IMAGES)
        np.testing.assert_array_equal(source.train.labels, FINE_LABELS)
        assert data.Dataset.from_source(source).classes == 100


def test_without_the_file_of_names_there_are_none(tmp_path):
    folder = write_cifar10(tmp_path)
    (folder / "batches.meta").unlink()
    assert data.load(folder).class_names is None


@pytest.mark.parametrize("version", ["py", "bin"])
def test_a_missing_batch(tmp_path, version):
    folder = write_cifar10(tmp_path, version)
    next(folder.glob("data_batch_3*")).unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_3(\.bin)?: is missing beside the other CIFAR batches"):
        data.load(folder)
    with pytest.raises(FileNotFoundError, match="there are no CIFAR batches"):
        data.load_cifar_folder(tmp_path / "nowhere")


IMAGE = CIFAR_IMAGES[:1].reshape(1, -1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data_batch_1.bin", bytes(3072), "3,072 bytes are not records of 3,073 bytes"),
        ("data_batch_1.bin", b"", "0 bytes are not records"),
        ("data_batch_1.bin", b"\x0a" + bytes(3072), "labels must be from 0 to 9, got 10 to 10"),
        ("batches.meta.txt", b"cat\ndog", "does not name 10 classes"),
        ("test_batch", b"", "is not a pickle, or a damaged one"),
        ("test_batch", b"\x80\x02}q\x01(U", "is not a pickle, or a damaged one"),
        ("test_batch", pickle.dumps([1, 2], 2), "holds no dict"),
        ("test_batch", pickle.dumps({"labels": [1]}, 2), r'no array \(N, 3072\) under "data"'),
        ("test_batch", pickle.dumps({"data": 1, "labels": [1]}, 2), r'no array \(N, 3072\) under "data"'),
        ("test_batch", pickle.dumps({"data": IMAGE[:, 1:], "labels": [1]}, 4), r'no array \(N, 3072\) under "data"'),
        ("test_batch", pickle.dumps({"data": IMAGE[:0], "labels": []}, 4), r'no array \(N, 3072\) under "data"'),
        ("test_batch", pickle.dumps({"data": IMAGE.astype(">i2"), "labels": [1]}, 4), "other than uint8"),
        ("test_batch", pickle.dumps({"data": IMAGE}, 4), 'no list of small integers under "labels"'),
        ("test_batch", pickle.dumps({"data": IMAGE, "labels": [True]}, 4), "no list of small integers"),
        ("test_batch", pickle.dumps({"data": IMAGE, "labels": [10**40]}, 4), "no list of small integers"),
        ("test_batch", pickle.dumps({"data": IMAGE, "labels": [1, 2]}, 4), "2 labels for 1 images"),
        ("test_batch", pickle.dumps({"data": IMAGE, "labels": [10]}, 4), "labels must be from 0 to 9, got 10 to 10"),
        ("batches.meta", pickle.dumps({"label_names": ["cat"]}, 2), "does not name 10 classes"),
    ],
)
def test_damaged_files(tmp_path, name, content, message):
    folder = write_cifar10(tmp_path, "bin" if "bin" in name or "txt" in name else "py")
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        data.load(folder)
    assert str(caught.value).startswith(str(folder / name))
    assert "\n" not in str(caught.value)


# --- pickles ---------------------------------------------------------------------------------------------------------


def test_plain_values():
    values = {
        "a": [1, -2, 300, 70000, 2**40, None, True, False],
        b"b": ("x", b"y", (), [], {}, ("é" * 300, b"z" * 300)),
    }
    for protocol in (3, 4):
        assert read_pickle(pickle.dumps(values, protocol), "these") == values


class Call:
    """An object whose pickle calls a function when it is loaded."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Remembered:
    def __setstate__(self, state):
        raise AssertionError("this ran")


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "malicious",
    [
        Call(os.system, "touch executed"),
        Call(eval, "open('executed', 'w')"),
        Call(exec, "open('executed', 'w')"),
        Call(builtins.open, "executed", "w"),
        Call(getattr, "executed", "upper"),
        Call(np.load, "executed", None, True),
        Call(np.fromfile, "executed"),
        Call(np.dtype, "u1", False, True, {}, 1),
        Call(bytearray, 1 << 40),
        Call(np.zeros, (1 << 20, 1 << 20)),
        Remembered(),
        np.dtype("u1,u2"),
        np.array([Call(os.system, "touch executed")], object),
        3.5,
        {1, 2},
    ],
    ids=range(15),
)
def test_nothing_that_a_pickle_asks_for_is_done(tmp_path, monkeypatch, malicious, protocol):
    monkeypatch.chdir(tmp_path)
    folder = write_cifar10(tmp_path)
    (folder / "data_batch_1").write_bytes(pickle.dumps({"data": malicious, "labels": [1]}, protocol))
    with pytest.raises(ValueError, match="data_batch_1: ") as caught:
        data.load(folder)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


OPCODES = {opcode.name: opcode.code.encode("latin-1") for opcode in pickletools.opcodes}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(U\x10touch executed  tR.",  # the textbook's
        b"(S'touch executed'\nios\nsystem\n.",  # INST: a call in one instruction
        b"(cos\nsystem\nS'touch executed'\no.",  # OBJ
        b"\x80\x02cos\nsystem\nU\x10touch executed  \x85\x81.",  # NEWOBJ
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0etouch executed\x85R.",  # STACK_GLOBAL
        b"\x80\x04\x8c\x05numpy\x8c\x0cndarray\nos\x93.",
        b"\x80\x02\x82\x01.",  # EXT1
        b"Pperson\n.",  # PERSID
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n)R}b.",  # an array whose state is a dict
        b"\x80\x02cnumpy\nndarray\n)R.",  # calls numpy.ndarray itself
        b"\x80\x02cnumpy\ndtype\n)R.",  # without arguments
        b"\x80\x02cnumpy\ndtype\n}b.",
        b"\x80\x02}cnumpy\nndarray\nK\x01s.",  # a key that is no string
        b"\x80\x02}(" + b"(" * 9 + b"ttttttttt" + b"K\x01u.",  # a nested key
        b"\x80\x02]]a]b.",
        b"\x80\x02K\x01K\x01a.",  # fills what is no list
        b"\x80\x02}U\x01aK\x01K\x01u.",  # no mark
        b"\x80\x02}(U\x01au.",  # a key without a value
        b"\x80\x02h\x05.",  # something that was never put into the memo
        b"\x80\x02q\x05.",  # an empty stack
        b"\x80\x02.",
        b"\x80\x02\x85.",
        b"\x80\x02tttt.",
        b"\x80\x02R.",
        b"\x80\x02b.",
        b"\x80\x04\x93.",
        b"\x80\x02N",  # no end
        b"\x80\x09N.",
        b"c\\u\nx\n.",  # a strange escape
        b"\xff\xff",
    ],
)
def test_bad_programs(tmp_path, monkeypatch, program):
    monkeypatch.chdir(tmp_path)
    folder = write_cifar10(tmp_path / "cifar")
    (folder / "test_batch").write_bytes(program)
    with pytest.raises(ValueError, match="test_batch: is not ") as caught:
        data.load(folder)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["cifar"]


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x04\x95" + b"\xff" * 7 + b"\x7fN.",  # a frame of 2**63 bytes
        b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7fx.",  # BINBYTES8
        b"\x80\x02T\xff\xff\xff\x7fx.",  # BINSTRING
        b"\x80\x02Nr\xff\xff\xff\xff.",  # the last place in a memo of 2**32
        b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".",  # 100,000 tuples, one within the other
        b"\x80\x02]" + b"q\x01h\x01a" * 50_000 + b".",  # a list that holds itself
        b"\x80\x02}(" + b"(" * 50_000 + b"t" * 50_000 + b"N" + b"u.",
        b"\x80\x02" + array2(IMAGE).replace(b"M\x00\x0c", b"M\xff\xff") + b".",
        b"\x80\x02" + array2(IMAGE).replace(b"M\x00\x0c", b"\x8a\xff" + b"\x7f" * 255) + b".",
        b"\x80\x02" + array2(IMAGE).replace(b"M\x00\x0c\x86", b"M\x00\x0c(" + b"K\x01" * 100_000 + b"t") + b".",
    ],
    ids=range(10),
)
def test_what_is_small_takes_little_memory(program):
    message = ""
    tracemalloc.start()
    try:
        read_pickle(program, "this")
    except ValueError as error:
        message = str(error)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30 << 20
    assert "\n" not in message
    assert len(message) < 300


def test_every_other_instruction_is_refused():
    """The instructions that are followed are listed here once more, to be looked at twice."""
    followed = """PROTO FRAME STOP MARK BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD
        APPEND APPENDS SETITEM SETITEMS TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST EMPTY_DICT EMPTY_TUPLE NONE NEWTRUE
        NEWFALSE
        SHORT_BINSTRING BINSTRING BININT BININT1 BININT2 LONG1 SHORT_BINUNICODE BINUNICODE SHORT_BINBYTES BINBYTES"""
    arguments = {"INST": b"os\nsystem\n", "PERSID": b"x\n", "INT": b"1\n", "LONG": b"1L\n", "FLOAT": b"1.0\n"}
    arguments |= {"STRING": b"'x'\n", "UNICODE": b"x\n", "GET": b"0\n", "PUT": b"0\n"}
    refused = OPCODES.keys() - set(followed.split())
    assert len(refused) == len(OPCODES) - 37
    for name in refused:
        with pytest.raises(ValueError, match=f"has the instruction {name}$"):
            read_pickle(OPCODES[name] + arguments.get(name, bytes(8)) + b".", "this")


def test_text_that_is_no_utf8_is_still_a_name(tmp_path):
    folder = write_cifar10(tmp_path)
    names = (folder / "batches.meta").read_bytes().replace(text2("cat"), b"U\x03c\xe9t")
    (folder / "batches.meta").write_bytes(names)
    assert data.load(folder).class_names[3] == "c�t"
