"""CIFAR-10, CelebA and image folders, from tiny files in the real formats."""

from __future__ import annotations

import hashlib
import os
import pickle

import numpy as np
import pytest
from gm_folders import pixels, write_source
from PIL import Image
from torchvision import transforms
from torchvision.datasets import CIFAR10, CelebA

from datamodules import RealImagesDataModule, SampleNumbersDataModule
from datamodules.images.problems import GMDataError
from datamodules.real import load_real_set


def cifar_batch(number: int, count: int = 4) -> tuple[np.ndarray, list[int]]:
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (count, 3072), dtype=np.uint8), rng.integers(0, 10, count).tolist()


def write_binary(folder) -> None:
    folder.mkdir(parents=True)
    for number in range(6):
        data, labels = cifar_batch(number)
        name = f"data_batch_{number + 1}.bin" if number < 5 else "test_batch.bin"
        (folder / name).write_bytes(
            b"".join(bytes([label]) + row.tobytes() for row, label in zip(data, labels, strict=True))
        )


def write_pickles(folder) -> dict[str, str]:
    """torchvision's files; returns their MD5 sums."""
    folder.mkdir(parents=True)
    for number in range(6):
        data, labels = cifar_batch(number)
        name = f"data_batch_{number + 1}" if number < 5 else "test_batch"
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": labels}, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(i) for i in range(10)]}, protocol=2))
    return {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def expect_cifar(real_set, numbers) -> None:
    batches = [cifar_batch(number) for number in numbers]
    assert real_set.labels.tolist() == [label for _, labels in batches for label in labels]
    planes = np.concatenate([data for data, _ in batches])
    for position in (0, len(planes) - 1):
        expected = planes[position].reshape(3, 32, 32).transpose(1, 2, 0)
        assert np.array_equal(real_set.pictures[position], expected)
    assert len(real_set) == len(planes)
    assert real_set.classes[3] == "cat"


def test_cifar10_binary(tmp_path):
    write_binary(tmp_path / "cifar-10-batches-bin")
    expect_cifar(load_real_set("cifar10", tmp_path, "train"), range(5))
    expect_cifar(load_real_set("cifar10", tmp_path / "cifar-10-batches-bin", "test"), [5])


def test_cifar10_python_files_with_the_right_sums(tmp_path, monkeypatch):
    sums = write_pickles(tmp_path / "cifar-10-batches-py")
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name, _ in CIFAR10.train_list])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})
    expect_cifar(load_real_set("cifar10", tmp_path, "train"), range(5))
    expect_cifar(load_real_set("cifar10", tmp_path, "test"), [5])


class Payload:
    """Unpickling this makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_changed_pickle_is_refused_and_not_run(tmp_path):
    write_pickles(tmp_path / "cifar-10-batches-py")
    payload = pickle.dumps(Payload(tmp_path / "pwned"))
    for file in (tmp_path / "cifar-10-batches-py").iterdir():
        file.write_bytes(payload)
    with pytest.raises(FileNotFoundError, match="an unchanged cifar-10-batches-py/"):
        load_real_set("cifar10", tmp_path)
    assert not (tmp_path / "pwned").exists()
    pickle.loads(payload)
    assert (tmp_path / "pwned").exists()  # it would have run


def test_cifar10_damaged_or_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cifar-10-binary\.tar\.gz"):
        load_real_set("cifar10", tmp_path)
    folder = tmp_path / "cifar-10-batches-bin"
    write_binary(folder)
    (folder / "data_batch_2.bin").write_bytes(b"x" * 5000)
    with pytest.raises(ValueError, match=r"data_batch_2\.bin: 5000 bytes, expected a multiple of 3073"):
        load_real_set("cifar10", tmp_path)
    (folder / "data_batch_2.bin").write_bytes(b"\xff" * 3073)
    with pytest.raises(ValueError, match="label 255"):
        load_real_set("cifar10", tmp_path)
    (folder / "data_batch_2.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_2\.bin not there"):
        load_real_set("cifar10", tmp_path)


def write_celeba(root, monkeypatch) -> None:
    folder = root / "celeba"
    write_source(folder, "img_align_celeba", 6, suffix="jpg", size=(218, 178), quality=90)
    names = [f"{number:05d}.jpg" for number in range(6)]
    partition = [0, 2, 0, 1, 2, 0]
    tables = {
        "list_eval_partition.txt": [f"{name} {part}" for name, part in zip(names, partition, strict=True)],
        "identity_CelebA.txt": [f"{name} {number}" for number, name in enumerate(names)],
        "list_bbox_celeba.txt": ["6", "image_id x_1 y_1 width height", *(f"{name}  1 2 3 4" for name in names)],
        "list_landmarks_align_celeba.txt": ["6", "a b", *(f"{name}  1 2" for name in names)],
        "list_attr_celeba.txt": ["6", "Smiling Young", *(f"{name}  1 -1" for name in names)],
    }
    for name, lines in tables.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    sums = [("", hashlib.md5((folder / name).read_bytes()).hexdigest(), name) for name in tables]
    monkeypatch.setattr(CelebA, "file_list", sums)


def test_celeba_is_split_cropped_and_scaled(tmp_path, monkeypatch):
    write_celeba(tmp_path, monkeypatch)
    crop = transforms.Compose([transforms.CenterCrop(140), transforms.Resize(64)])
    for split, numbers in (("train", [0, 2, 5]), ("test", [1, 4])):
        real_set = load_real_set("celeba", tmp_path, split)
        assert len(real_set) == len(numbers)
        for position, number in enumerate(numbers):
            image = Image.open(tmp_path / "celeba" / "img_align_celeba" / f"{number:05d}.jpg")
            assert np.array_equal(real_set.pictures[position], np.asarray(crop(image)))


def test_celeba_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"list_eval_partition\.txt.*`folder` with center_crop 140"):
        load_real_set("celeba", tmp_path)


def test_afhq_like_folder_with_splits_and_classes(tmp_path):
    for split in ("train", "val"):
        for animal in ("dog", "cat"):
            write_source(tmp_path / split, animal, 3, key=f"{split}{animal}")
    train, test = load_real_set("afhq", tmp_path, "train"), load_real_set("afhq", tmp_path, "test")
    assert train.classes == ("cat", "dog")
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(train.pictures[4], pixels("traindog", 1))
    assert np.array_equal(test.pictures[0], pixels("valcat", 0))
    assert (train.name, test.split) == ("afhq", "test")


def test_plain_folder_with_crop_and_resize(tmp_path):
    write_source(tmp_path, "my faces!", 4, size=(40, 30))
    write_source(tmp_path, "my faces!", 2, size=(50, 44), start=10)
    with pytest.raises(GMDataError) as caught:
        load_real_set("folder", tmp_path / "my faces!")
    assert "30x40 (width x height): 4 images" in str(caught.value)
    assert "44x50 (width x height): 2 images" in str(caught.value)
    real_set = load_real_set("folder", tmp_path / "my faces!", center_crop=30, resize=15)
    assert {real_set.pictures[i].shape for i in range(6)} == {(15, 15, 3)}
    assert real_set.name == "my_faces_"
    assert real_set.labels is None
    with pytest.raises(GMDataError, match="30x40, the crop is 31"):
        load_real_set("folder", tmp_path / "my faces!", center_crop=31)


def test_ffhq_shards_are_no_classes(tmp_path):
    for shard in ("00000", "01000"):
        write_source(tmp_path, shard, 2, key=shard)
    assert load_real_set("ffhq", tmp_path).labels is None
    assert load_real_set("folder", tmp_path).classes == ("00000", "01000")


def test_bad_folders(tmp_path, caplog):
    with pytest.raises(FileNotFoundError, match="root is None"):
        load_real_set("folder")
    with pytest.raises(FileNotFoundError, match="no image in it or below"):
        load_real_set("folder", tmp_path)
    write_source(tmp_path, "x", 1)
    with pytest.raises(FileNotFoundError, match="no folder test/ or val/"):
        load_real_set("folder", tmp_path, "test")
    (tmp_path / "x" / "bad.png").write_text("x")
    with pytest.raises(GMDataError, match=r"bad\.png"):
        load_real_set("folder", tmp_path)
    (tmp_path / "x" / "bad.png").unlink()
    (tmp_path / "x" / "notes.txt").write_text("x")
    load_real_set("folder", tmp_path)
    assert f"{tmp_path}: found 1 image, left 1 out (1 no image: {tmp_path}/x/notes.txt)" in caplog.text
    with pytest.raises(ValueError, match="found real set 'cifar'"):
        load_real_set("cifar")


def test_a_folder_of_reals_is_checked_and_read_as_any_other_images_are(tmp_path):
    write_source(tmp_path, "photos", 3, size=(24, 16))
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = np.rot90(pixels("photos", 7, (24, 16))).copy()
    Image.fromarray(lying).save(tmp_path / "photos" / "7_turned.png", exif=exif)
    (tmp_path / "more").mkdir()
    Image.fromarray(pixels("photos", 9, (24, 16))).save(tmp_path / "more" / "_DSC9.BMP")
    (tmp_path / "photos" / "more").symlink_to(tmp_path / "more")
    real_set = load_real_set("folder", tmp_path / "photos")
    assert [real_set.pictures[index].shape for index in range(len(real_set))] == [(24, 16, 3)] * 5
    assert np.array_equal(real_set.pictures[3], pixels("photos", 7, (24, 16)))
    Image.fromarray(np.full((24, 16), 40_000, dtype=np.uint16)).save(tmp_path / "photos" / "deep.png")
    Image.new("RGBA", (16, 24)).save(tmp_path / "photos" / "blank.png")
    Image.new("CMYK", (16, 24)).save(tmp_path / "photos" / "inks.jpg")
    Image.new("RGB", (40, 24)).save(tmp_path / "photos" / "wide.png")
    with pytest.raises(GMDataError) as caught:
        load_real_set("folder", tmp_path / "photos")
    for words in (
        "deep.png: more than 8 bits",
        "blank.png: transparent",
        "inks.jpg: CMYK",
        "40x24 (width x height): 1",
    ):
        assert words in str(caught.value)
    assert "no real image was used" in str(caught.value)


def test_modules_cut_and_scale_reals_as_their_messages_advise(tmp_path):
    for split in ("train", "test"):
        write_source(tmp_path, split, 4, size=(40, 30))
        write_source(tmp_path, split, 2, size=(50, 44), start=10)
    reals = RealImagesDataModule(name="folder", root=str(tmp_path), center_crop=24, resize=8)
    reals.setup("fit")
    assert reals.train_set[5]["image"].shape == (3, 8, 8)
    with pytest.raises(GMDataError, match="or set `center_crop` and/or `resize`"):
        RealImagesDataModule(name="folder", root=str(tmp_path)).prepare_data()
    given = {"reals": "folder", "reals_root": str(tmp_path), "negative_images": 6}
    numbers = SampleNumbersDataModule(**given, reals_center_crop=24, reals_resize=8)
    numbers.setup("test")
    assert numbers.reals[5]["image"].shape == (3, 8, 8)
    with pytest.raises(GMDataError, match="or set `reals_center_crop` and/or `reals_resize`"):
        SampleNumbersDataModule(**given).setup("test")
