"""Files that want to run something, take all memory or lie about their contents are refused, and nothing happens."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from lightning_modules.generators.checkpoints.safe_pickle import module_tensors, read_tensor_pickle
from lightning_modules.generators.checkpoints.stored import CheckpointError


def text(value):
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def call(module, name, *arguments):
    """A pickle that calls a function with texts."""
    return b"\x80\x02c" + f"{module}\n{name}\n(".encode() + b"".join(map(text, arguments)) + b"tR."


def refused(path, content):
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_tensor_pickle(path)
    message = str(caught.value)
    assert message.startswith(path.name)
    return message


class Call:
    def __init__(self, function, *arguments):
        self.called = function, arguments

    def __reduce__(self):
        return self.called


@pytest.fixture
def touched(tmp_path):
    """Fails if a file ran its command."""
    marker = tmp_path / "touched"
    yield marker
    assert not marker.exists()


GLOBALS = [
    ("os", "system"),
    ("posix", "system"),
    ("subprocess", "Popen"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "getattr"),
    ("builtins", "__import__"),
    ("__builtin__", "eval"),
    ("torch", "load"),
    ("torch.hub", "load"),
    ("torch.jit", "load"),
    ("torch", "serialization.os.system"),
    ("torch.nn.modules.module", "Module.load_state_dict"),
    ("pytorch_lightning.utilities", "os.system"),
    ("pickle", "loads"),
    ("importlib", "import_module"),
    ("operator", "attrgetter"),
    ("numpy", "load"),
    ("numpy.core.multiarray", "fromfile"),
    ("torch_utils.persistence", "_src_to_module"),
    ("dnnlib.tflib.network", "Network.__setstate__"),
    ("dnnlib.tflib.tfutil", "run"),
    ("functools", "partial"),
]


@pytest.mark.parametrize(("module", "name"), GLOBALS)
def test_the_global_it_asks_for_is_named(module, name, tmp_path, touched):
    for content in (
        call(module, name, f"touch {touched}"),
        b"\x80\x04" + text(module) + text(name) + b"\x93" + text(f"touch {touched}") + b"\x85R.",
        b"(" + text(f"touch {touched}") + f"i{module}\n{name}\n.".encode(),
        b"(" + f"c{module}\n{name}\n".encode() + text(f"touch {touched}") + b"o.",
        b"\x80\x02" + f"c{module}\n{name}\n".encode() + text(f"touch {touched}") + b"\x85\x81.",
        b"\x80\x02}" + text("g_ema") + f"c{module}\n{name}\n".encode() + b"s.",  # only mentions it
    ):
        assert f"'{module}.{name}'" in refused(tmp_path / "a.pkl", content)


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_are_no_way_in(zipped, tmp_path, touched):
    path = tmp_path / "a.pt"
    torch.save({"g_ema": {}, "args": Call(os.system, f"touch {touched}")}, path, _use_new_zipfile_serialization=zipped)
    message = refused(path, path.read_bytes())
    assert f"'{os.system.__module__}.system'" in message
    assert "nothing in the file was run" in message
    assert "save the generator's state dict alone" in message


def test_nothing_is_imported(tmp_path):
    assert "this" not in sys.modules
    assert "'this.s'" in refused(tmp_path / "a.pkl", call("this", "s"))
    assert "this" not in sys.modules


@pytest.mark.parametrize("depth", [1, 2])
def test_a_file_within_the_file_is_read_by_the_same_rules(depth, tmp_path, touched):
    content = pickle.dumps(Call(os.system, f"touch {touched}"))
    for _ in range(depth):
        content = pickle.dumps(Call(torch.storage._load_from_bytes, content))
    assert f"'{os.system.__module__}.system'" in refused(tmp_path / "a.pkl", content)
    deeper = pickle.dumps(Call(torch.storage._load_from_bytes, content))
    refused(tmp_path / "a.pkl", pickle.dumps(Call(torch.storage._load_from_bytes, deeper)))


def test_source_code_in_a_network_pickle_is_not_run(tmp_path, touched):
    source = f"import os; os.system('touch {touched}')"
    meta = b"}" + text("module_src") + text(source) + b"s" + text("class_name") + text("Generator") + b"s"
    reconstruct = b"\x80\x02ctorch_utils.persistence\n_reconstruct_persistent_obj\n" + meta + b"\x85R."
    (tmp_path / "a.pkl").write_bytes(reconstruct)
    record = read_tensor_pickle(tmp_path / "a.pkl")
    assert record.class_name == "Generator"
    assert record.state == {}


def test_records_do_not_behave(tmp_path, touched):
    """Attributes of a record are stored under no name that python would look up."""
    made = b"\x80\x02cargparse\nNamespace\n)\x81"
    state = b"}" + text("__class__") + text("x") + b"s" + text("__reduce__") + text("y") + b"s"
    (tmp_path / "a.pkl").write_bytes(made + state + b"b.")
    record = read_tensor_pickle(tmp_path / "a.pkl")
    assert record.state == {"__class__": "x", "__reduce__": "y"}
    assert type(record).__name__ == "PickledObject"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02cargparse\nNamespace\n}b.", "attributes are set on a PickledGlobal"),
        (b"\x80\x02K\x01(tR.", "a int is called"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "torch.FloatStorage is called"),
        (b"\x80\x02]K\x01K\x02s.", "items are set on a list"),
        (b"\x80\x02}K\x01a.", "elements are appended to a dict"),
        (b"\x82\x01.", "extension code 1"),
        (b"\x80\x02K\x01Q.", "a reference 1 to data outside the pickle"),
        (b"\x80\x02]}\x86}s.", "TypeError|used as a key|never put"),
        (b"\x80\x05\x97.", "NEXT_BUFFER has no place"),
        (b"\x80\x02h\x07.", "near byte 2"),
        (b"\x80\x020.", "never put"),
        (b"\x80\x02t.", "near byte 2"),
        (b"\x80\x02K\x01K\x02.", "left over"),
        (b"(" * 20_000 + b".", "more than 10000 containers"),
        (b"\x80\x02K\x01", "near byte 2"),
    ],
)
def test_opcodes_that_no_pickler_writes(content, message, tmp_path):
    found = refused(tmp_path / "a.pkl", content)
    assert any(part in found for part in message.split("|")), found


def test_deep_nesting_neither_recurses_nor_hashes_for_ever(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".")
    assert isinstance(read_tensor_pickle(path), list)
    doubled = b"\x80\x02}K\x01" + b"2\x86" * 64 + b"K\x01s."  # a key with 2**64 leaves
    assert "a tuple is used as a key" in refused(path, doubled)


DOUBLED = b"]" + b"\x94" + b"".join(b"0](h" + bytes([i]) + b"h" + bytes([i]) + b"e\x94" for i in range(90))
"""A list of two lists, which are the same, of two lists, and so on: a kilobyte that takes for ever to write out."""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b"Q."),
        (b"(" + text("storage"), b"NNK\x01tQ."),
        (b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00", b"]tR."),
        (b"ctorch\ndevice\n", b"\x85R."),
        (b"cargparse\nNamespace\n)\x81", b"bQ."),
        (b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n}" + text("class_name"), b"s\x85R."),
        (b"ctorch._tensor\n_rebuild_from_type_v2\n(", b"]]]tR."),
        (b"ccopyreg\n_reconstructor\n", b"\x85R."),
        (b"c_codecs\nencode\n" + text("x"), b"\x86R."),
        (b"cnumpy\ndtype\n", b"\x85R."),
    ],
)
@pytest.mark.timeout(20)
def test_no_message_writes_out_what_is_endless(before, after, tmp_path):
    assert len(refused(tmp_path / "a.pkl", b"\x80\x04" + before + DOUBLED + after)) < 1000


@pytest.mark.timeout(20)
def test_records_within_records_neither_recurse_nor_double(tmp_path):
    path = tmp_path / "a.pkl"
    empty = b"cargparse\nNamespace\n)\x81"
    path.write_bytes(b"\x80\x04" + empty * 30_000 + b"b" * 29_999 + b".")
    assert "Namespace" in repr(read_tensor_pickle(path))
    inner = b"cargparse\nNamespace\n)\x81\x94"
    for i in range(60):
        children = text("_modules") + b"}(" + b"".join(text(name) + b"h" + bytes([i]) for name in "ab") + b"u"
        inner += b"0cargparse\nNamespace\n)\x81}" + children + b"sb\x94"
    path.write_bytes(b"\x80\x04" + inner + b".")
    with pytest.raises(CheckpointError, match="more than 100000 tensors or modules"):
        module_tensors(read_tensor_pickle(path))


def test_copies_of_copies_are_stopped(tmp_path):
    """Each call copies a list of half a million; a megabyte of file would take a terabyte."""
    many = b"\x80\x02](" + b"N" * 500_000 + b"eq\x000"
    content = many + b"](" + b"cbuiltins\nlist\nh\x00\x85R" * 40_000 + b"e."
    tracemalloc.start()
    try:
        assert "far beyond the size of the file" in refused(tmp_path / "a.pkl", content)
        assert tracemalloc.get_traced_memory()[1] < 500e6
    finally:
        tracemalloc.stop()


def numpy_array(dtype, shape, content):
    class Array:
        def __reduce__(self):
            return (
                np._core.multiarray._reconstruct,
                (np.ndarray, (0,), b"b"),
                (1, shape, np.dtype(dtype), False, content),
            )

    return pickle.dumps(Array(), 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (numpy_array(object, (1,), [1]), "numpy dtype 'O8'"),
        (numpy_array("V8", (1,), b"12345678"), "numpy dtype 'V8'"),
        (numpy_array("f8", (2,), b"12345678"), "shape (2,) and type float64 in 8 bytes"),
        (numpy_array("f8", (2**40,), b"12345678"), "in 8 bytes"),
        (numpy_array("f8", (-1,), b"12345678"), "shape (-1,)"),
        (numpy_array("f8", (1,), [1.0]), "no bytes"),
    ],
)
def test_numpy_arrays_are_numbers_of_their_size(content, message, tmp_path):
    assert message in refused(tmp_path / "a.pkl", content)


def legacy(size, stride, offset=0, count=6, numbers=6):
    """A file of the older format with one tensor, as it says it is."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x00kX\x03\x00\x00\x00cpu"
    storage += pickle.dumps(count, 2)[2:-1] + b"NtQ"
    view = b"".join(pickle.dumps(value, 2)[2:-1] for value in (offset, size, stride))
    start = b"".join(pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {}))
    tensor = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + view + b"\x89NtR."
    return start + tensor + pickle.dumps(["k"], 2) + numbers.to_bytes(8, "little") + bytes(4 * numbers)


def test_a_tensor_stays_within_its_storage(tmp_path):
    (tmp_path / "a.pt").write_bytes(legacy((2, 3), (3, 1)))
    assert read_tensor_pickle(tmp_path / "a.pt").shape == (2, 3)
    for size, stride, offset in [((2, 3), (3, 1), 1), ((2, 4), (3, 1), 0), ((2,), (6,), 0), ((2**30,), (0,), 0)]:
        message = refused(tmp_path / "a.pt", legacy(size, stride, offset))
        assert f"a tensor of size {size} and stride {stride} from element {offset} of a storage of 6" in message
    for size, stride, offset in [((2,), (-1,), 3), ((2,), (1,), -1), ((-2,), (1,), 0), ((2,), (1, 1), 0)]:
        assert f"offset {offset}, size {size} and stride {stride}" in refused(
            tmp_path / "a.pt", legacy(size, stride, offset)
        )
    assert "found storages of 4000000000000 bytes" in refused(tmp_path / "a.pt", legacy((1,), (1,), count=10**12))
    assert "20 bytes for 5 elements of storage k, expected 24 bytes for 6" in refused(
        tmp_path / "a.pt", legacy((1,), (1,), numbers=5)
    )


def rewrite(path, change):
    """Copy a zip file with other records."""
    with zipfile.ZipFile(path) as old:
        records = {info.filename: old.read(info) for info in old.infolist()}
    compression = change(records) or zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", compression) as new:
        for name, content in records.items():
            new.writestr(name, content)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("a/data/0"), "found no record a/data/0"),
        (
            lambda r: r.update({"a/data/0": b"1234"}),
            "found 4 bytes for a storage of 6 elements of torch.float32, expected 24",
        ),
        (lambda r: r.pop("a/data.pkl"), "zip archive without data.pkl"),
        (lambda r: r.update({"a/constants.pkl": b""}), "TorchScript archive, which holds code"),
        (lambda r: r.update({"a/byteorder": b"big"}), "big-endian"),
        (lambda r: zipfile.ZIP_DEFLATED, "compressed"),
    ],
)
def test_a_zip_file_holds_what_its_tensors_need(change, message, tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"g_ema": torch.arange(6.0)}, path)

    def keep_compression(records):
        result = change(records)
        return result if isinstance(result, int) else None

    assert message in refused(path, rewrite(path, keep_compression))


@pytest.mark.parametrize("name", ["zip.pt", "legacy.pt", "bare.pkl"])
def test_every_cut_is_noticed_and_no_change_of_a_byte_does_harm(name, tmp_path):
    path = tmp_path / name
    content = {"g_ema": torch.nn.Linear(3, 2).state_dict(), "note": "x"}
    if name == "bare.pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=name == "zip.pt")
    whole = path.read_bytes()
    for cut in range(1, len(whole), max(1, len(whole) // 60)):
        message = refused(path, whole[:cut])
        assert "fetch" in message or "expected" in message
    chance = random.Random(0)
    for _ in range(300):
        changed = bytearray(whole)
        for _ in range(chance.choice((1, 1, 3))):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        path.write_bytes(changed)
        with contextlib.suppress(CheckpointError):  # a changed number or name may be read; no other error may come
            read_tensor_pickle(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><html>Sign in", "found a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"GIF89a", "found a GIF image"),
        (bytes(257) + b"ustar" + bytes(300), "tar archive"),
    ],
)
def test_other_files_are_named(content, message, tmp_path):
    assert message in refused(tmp_path / "a.pt", content)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"found no file .*a\.pt"):
        read_tensor_pickle(tmp_path / "a.pt")
