"""Building, opening, carrying and damaging a manifold."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from reals_for_tests import FlatEmbedding, build, random_bytes, smooth_bytes

from lightning_modules.artifacts import Manifold, ManifoldError, build_embedding, manifold_key


class MapStyle:
    """A data set that never raises IndexError and counts how often each item is decoded."""

    def __init__(self, images):
        self.images, self.read = images, [0] * len(images)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        index %= len(self.images)
        self.read[index] += 1
        return {"image": self.images[index], "content_id": 70 + index}


@pytest.fixture
def images():
    return smooth_bytes(60)


def test_points_come_back_bit_by_bit(tmp_path, images):
    manifold = build(tmp_path / "m", images)
    assert len(manifold) == 60
    assert manifold.shape == (3, 12, 12)
    index = torch.tensor([3, 59, 3])
    points = manifold.points(index)
    assert points.dtype == torch.float32
    assert torch.equal(points, images[index].float() / 255)
    assert torch.equal(manifold.content_ids, torch.arange(1000, 1060))
    assert manifold.contains(torch.tensor([999, 1000, 1059, 1060])).tolist() == [False, True, True, False]
    with pytest.raises(IndexError, match="the manifold has 60"):
        manifold.points(torch.tensor([60]))


def test_float_points_come_back_bit_by_bit(tmp_path):
    images = torch.rand(20, 3, 4, 4)
    manifold = build(tmp_path / "m", images, FlatEmbedding(1.7))
    assert torch.equal(manifold.points(torch.arange(20)), images.flatten(1) * 1.7)


def test_the_form_of_the_input_does_not_matter(tmp_path, images):
    items = [{"image": image, "content_id": 70 + i} for i, image in enumerate(images)]
    data_set = MapStyle(images)
    forms = {
        "map_style": data_set,
        "items": iter(items),
        "batches": [
            {"image": images[i : i + 7], "content_id": torch.arange(70 + i, 70 + min(i + 7, 60))}
            for i in range(0, 60, 7)
        ],
        "floats": [{"image": images.float() / 255, "content_id": torch.arange(70, 130)}],
        "mixed": [items[0], {"image": images[1:], "content_id": torch.arange(71, 130)}],
    }
    state = torch.get_rng_state()
    hashes = {name: Manifold.build(tmp_path / name, form, build_embedding("rgb")).hash for name, form in forms.items()}
    assert len(set(hashes.values())) == 1, hashes
    assert data_set.read == [1] * 60
    assert torch.equal(torch.get_rng_state(), state)


def test_the_hash_says_what_is_inside(tmp_path, images):
    def hash_of(name, pictures, embedding=None, first_id=1000):
        return build(tmp_path / name, pictures, embedding, first_id).hash

    changed = images.clone()
    changed[40, 1, 5, 5] ^= 1
    other = build_embedding("rgb")
    other.preprocessing = "something else"
    hashes = [
        hash_of("a", images),
        hash_of("pixel", changed),
        hash_of("ids", images, first_id=1001),
        hash_of("order", images.flip(0)),
        hash_of("fewer", images[:-1]),
        hash_of("embedding", images, other),
    ]
    assert len(set(hashes)) == len(hashes)
    assert hash_of("again", images) == hashes[0]
    assert build(tmp_path / "axes", images, axes=7).hash == hashes[0]


def test_travels_in_a_checkpoint(tmp_path, images):
    manifold = build(tmp_path / "m", images)
    torch.save({"manifold": manifold.to_tensors()}, tmp_path / "checkpoint.pt")
    shutil.rmtree(tmp_path / "m")
    loaded = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    again = Manifold.from_tensors(loaded["manifold"], build_embedding("rgb"))
    assert again.hash == manifold.hash
    assert again.directory is None
    assert torch.equal(again.points(torch.arange(60)), images.float() / 255)
    assert again.num_bytes == 60 * 121  # grey once, border not at all
    loaded["manifold"]["points"][3, 3] ^= 1
    with pytest.raises(ManifoldError, match="do not have the hash"):
        Manifold.from_tensors(loaded["manifold"])
    del loaded["manifold"]["points"]
    with pytest.raises(ManifoldError, match="not those of a manifold"):
        Manifold.from_tensors(loaded["manifold"])


def test_nothing_unfinished_is_left_or_opened(tmp_path, images):
    def breaks_off():
        yield {"image": images[:30], "content_id": torch.arange(30)}
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        Manifold.build(tmp_path / "m", breaks_off(), build_embedding("rgb"))
    assert list(tmp_path.iterdir()) == []
    assert not Manifold.exists(tmp_path / "m")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Manifold.open(tmp_path / "m")
    (tmp_path / "m").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no manifold\.json"):
        Manifold.open(tmp_path / "m")


def test_overwriting_has_to_be_asked_for(tmp_path, images):
    first = build(tmp_path / "m", images)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        build(tmp_path / "m", images)
    items = [{"image": images[:9], "content_id": torch.arange(9)}]
    second = Manifold.build(tmp_path / "m", items, build_embedding("rgb"), overwrite=True)
    assert len(Manifold.open(tmp_path / "m")) == 9
    assert second.hash != first.hash
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("name", ["points", "leading", "content_ids", "order"])
def test_truncated_and_missing_files_are_found_when_opening(tmp_path, name):
    build(tmp_path / "m", smooth_bytes(600))
    path = tmp_path / "m" / f"{name}.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ManifoldError, match=rf"{name}\.bin has {len(whole) - 1} bytes, expected {len(whole)}"):
        Manifold.open(tmp_path / "m")
    path.unlink()
    with pytest.raises(ManifoldError, match=rf"{name}\.bin is missing"):
        Manifold.open(tmp_path / "m")


@pytest.mark.parametrize("name", ["points", "finer", "axes", "content_ids", "squares"])
def test_changed_bytes_are_found_by_verification(tmp_path, name):
    build(tmp_path / "m", smooth_bytes(600))
    Manifold.open(tmp_path / "m", verify=True)
    path = tmp_path / "m" / f"{name}.bin"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ManifoldError, match=rf"contents of {name}\.bin have changed"):
        Manifold.open(tmp_path / "m", verify=True)


def test_a_forged_hash_is_found_by_verification(tmp_path, images):
    build(tmp_path / "m", images)
    path = tmp_path / "m" / "manifold.json"
    manifest = json.loads(path.read_text())
    manifest["hash"] = "0" * 32
    path.write_text(json.dumps(manifest))
    with pytest.raises(ManifoldError, match="do not have the hash"):
        Manifold.open(tmp_path / "m", verify=True)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not readable"), ('{"format": 99}', "format version 99"), ("[]", "not readable")]
)
def test_unreadable_manifests(tmp_path, images, text, message):
    build(tmp_path / "m", images)
    (tmp_path / "m" / "manifold.json").write_text(text)
    with pytest.raises(ManifoldError, match=message):
        Manifold.open(tmp_path / "m")


def test_the_wrong_manifold_is_refused(tmp_path, images):
    manifold = build(tmp_path / "m", images)
    with pytest.raises(ManifoldError, match="was embedded with"):
        Manifold.open(tmp_path / "m", FlatEmbedding())
    with pytest.raises(ManifoldError, match="was embedded with"):
        Manifold.from_tensors(manifold.to_tensors(), FlatEmbedding())
    with pytest.raises(ManifoldError, match=f"has the hash {manifold.hash}, expected abc"):
        Manifold.open(tmp_path / "m", expected_hash="abc")
    assert Manifold.open(tmp_path / "m", build_embedding("rgb"), expected_hash=manifold.hash).hash == manifold.hash


def test_bad_images_are_refused(tmp_path):
    rgb = build_embedding("rgb")
    with pytest.raises(ValueError, match="no images"):
        Manifold.build(tmp_path / "m", [], rgb)
    sizes = [
        {"image": random_bytes(1, 3, 4, 4)[0], "content_id": 0},
        {"image": random_bytes(1, 3, 5, 4)[0], "content_id": 1},
    ]
    with pytest.raises(ValueError, match="one size"):
        Manifold.build(tmp_path / "m", sizes, rgb)
    with pytest.raises(ValueError, match="one size"):
        Manifold.build(tmp_path / "m", [{"image": i["image"][None], "content_id": [0]} for i in sizes], rgb)
    images = torch.zeros(2, 3, 4, 4)
    images[1, 0, 0, 0] = 0.5001
    with pytest.raises(ValueError, match="Image 1 has values that are not multiples"):
        Manifold.build(tmp_path / "m", [{"image": images, "content_id": torch.arange(2)}], rgb)
    images[1, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="Image 1 embeds to values that are NaN"):
        Manifold.build(tmp_path / "m", [{"image": images, "content_id": torch.arange(2)}], FlatEmbedding())
    with pytest.raises(ValueError, match="2 images and 3 content ids"):
        Manifold.build(tmp_path / "m", [{"image": images[:1].repeat(2, 1, 1, 1), "content_id": torch.arange(3)}], rgb)
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\)"):
        Manifold.build(tmp_path / "m", [{"image": random_bytes(2, 1, 4, 4), "content_id": torch.arange(2)}], rgb)
    assert list(tmp_path.iterdir()) == []


def test_key_depends_on_images_and_embedding(images):
    class WithIds(MapStyle):
        @property
        def content_ids(self):
            return torch.arange(70, 70 + len(self))

    rgb = build_embedding("rgb")
    counted = WithIds(images)
    key = manifold_key(counted, rgb)
    assert key.startswith("rgb-")
    assert sum(counted.read) == 0
    assert manifold_key(MapStyle(images), rgb) == key
    assert manifold_key(WithIds(images[:-1]), rgb) != key
    assert manifold_key(counted, FlatEmbedding()) != key
