"""Embeddings and representations by name, the artifact and its controls, real images by their point."""

from __future__ import annotations

import pytest
import timm
import torch
from plug_ins_of_tests import PooledColours
from reals_for_tests import build, random_bytes

from lightning_modules.artifacts import EMBEDDINGS, Embedding, build_embedding, embedding_identity
from lightning_modules.common.random_streams import random_indices
from lightning_modules.representations.artifact import artifact
from lightning_modules.representations.batches import Representations
from lightning_modules.representations.registry import REPRESENTATIONS, Inputs, Representation, build_representation
from lightning_modules.representations.settings import ManifoldSettings, current_settings


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_every_embedding_keeps_the_contract(name, tmp_path):
    choice = {"name": name}
    if name in ("sl", "ssl"):
        torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "w.pth")
        choice |= {"network": "resnet10t", "weights": str(tmp_path / "w.pth"), "resize": None, "crop": 32}
    embedding = build_embedding(choice).to(torch.device("cpu"))
    assert isinstance(embedding, Embedding)
    assert embedding.name == name
    assert set(embedding_identity(embedding)) - {"arguments"} == {"name", "version", "preprocessing"}
    images = torch.randint(0, 256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(0)).float() / 255
    embedded = embedding(images)
    assert len(embedded) == 3
    assert embedded.dtype == torch.float32
    torch.testing.assert_close(embedding(images[1:2]), embedded[1:2])  # an image's point is its own
    if embedding.eight_bit:
        assert torch.equal(embedded, (embedded * 255).round() / 255)


def test_rgb_is_the_image():
    images = torch.rand(2, 3, 5, 7)
    rgb = build_embedding("rgb")
    assert torch.equal(rgb(images), images)
    assert rgb(images.double()).dtype == torch.float32
    assert set(embedding_identity(rgb)) == {"name", "version", "preprocessing"}  # keys of stored manifolds
    for wrong in (torch.rand(2, 1, 5, 7), torch.rand(3, 5, 7), torch.zeros(2, 3, 5, 7, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"Expected images of shape \(N, 3, H, W\)"):
            rgb(wrong)


def test_unknown_embeddings_and_arguments():
    with pytest.raises(ValueError, match="found embedding 'rbg'; did you mean rgb"):
        build_embedding("rbg")
    with pytest.raises(ValueError, match="found argument of embedding rgb 'size'; expected none"):
        build_embedding({"name": "rgb", "size": 3})


def test_artifact_is_signed_generated_minus_real():
    generated, real = torch.tensor([[0.25, 1.0]]), torch.tensor([[0.75, 0.5]])
    assert artifact(generated, real).tolist() == [[-0.5, 0.5]]
    for other in (real[:, :1], None):
        with pytest.raises(ValueError, match="same embedding"):
            artifact(generated, other)


def test_representations_are_what_their_names_say():
    embedded, nearest, other = torch.rand(3, 2, 4).unbind()
    expected = {"artifact": embedded - nearest, "raw": embedded, "nearest": nearest, "random": embedded - other}
    assert set(expected) <= set(REPRESENTATIONS)
    for name, tensor in expected.items():
        representation = build_representation(name)
        assert torch.equal(representation(Inputs(torch.rand(2, 3, 4, 4), embedded, nearest[:, None], other)), tensor)
        assert representation.name == name
        bare = Inputs(torch.rand(2, 3, 4, 4), embedded)
        if representation.needs_neighbours or representation.needs_random_real:
            with pytest.raises(ValueError, match="real"):
                representation(bare)
        else:
            assert torch.equal(representation(bare), tensor)


@pytest.mark.parametrize(
    ("main", "controls", "searches", "needs_manifold"),
    [("raw", [], False, False), ("raw", ["random"], False, True), ("random", ["nearest"], True, True)],
)
def test_a_search_is_paid_for_where_it_is_needed(main, controls, searches, needs_manifold):
    found = Representations("rgb", [main], controls, 0, ManifoldSettings())
    assert (found.searches, found.needs_manifold) == (searches, needs_manifold)


def test_a_nearest_real_is_shown_by_its_point_or_by_its_index(tmp_path, monkeypatch):
    monkeypatch.setitem(EMBEDDINGS.members, "pooled", "plug_ins_of_tests:PooledColours")
    images = random_bytes(20, 3, 8, 8)

    class Reals:
        """The same images in another order, as another scan of the folder may give them."""

        content_ids = torch.arange(1000, 1020).flip(0)

        def __getitem__(self, index):
            return {"image": images.flip(0)[index], "content_id": int(self.content_ids[index])}

    settings = ManifoldSettings()
    for name, reals, expected in [("rgb", None, images[7] / 255), ("pooled", Reals(), images[7] / 255)]:
        shown = Representations(name, ["artifact"], [], 0, settings)
        manifold = build(tmp_path / name, images, shown.embedding)
        shown.load_checkpoint({"manifold": manifold.to_tensors(), "manifold_hash": manifold.hash, "manifold_path": ""})
        assert torch.equal(shown.nearest_image(7, (3, 8, 8), reals), expected)
    assert shown.nearest_image(7, (3, 8, 8)) is None
    assert shown.output_shapes((8, 8)) == {"artifact": (2 * 3 * 4 * 4,)}
    assert embedding_identity(PooledColours(2)) != embedding_identity(PooledColours(4))


def test_settings_of_earlier_versions_have_todays_names():
    flat = {"embedding": "rgb", "view": "raw", "manifold_dir": "m", "search_memory_mib": 7, "carry_manifold_mib": 9}
    manifold = {"dir": "m", "search_memory_mib": 7, "carry_mib": 9}
    today = {"embedding": "rgb", "representation": "raw", "manifold": manifold}
    assert current_settings(flat) == current_settings(today) == today


def _splitmix(identifier: int, seed: int) -> int:
    mask = 2**64 - 1
    z = (identifier + (seed + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) & (2**62 - 1)


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**40])
def test_random_reals_are_a_hash_of_the_image(seed):
    ids = torch.cat([torch.arange(1000), torch.tensor([2**62 + 17, 2**63 - 1])])
    chosen = random_indices(ids, 37, seed)
    assert chosen.tolist() == [_splitmix(identifier, seed) % 37 for identifier in ids.tolist()]
    assert torch.equal(random_indices(ids.flip(0)[:5], 37, seed), chosen.flip(0)[:5])


def test_random_reals_are_uniform_and_depend_on_the_seed():
    ids = torch.arange(50_000)
    counts = torch.bincount(random_indices(ids, 50), minlength=50).double()
    chi_square = float(((counts - 1000).square() / 1000).sum())
    assert chi_square < 85.4  # 99.9 % quantile of chi-square with 49 degrees of freedom
    assert (random_indices(ids, 50, 0) == random_indices(ids, 50, 1)).double().mean() < 0.03
    with pytest.raises(ValueError, match="expected at least one"):
        random_indices(ids, 0)


class WrongShape(Representation):
    """Says nothing of its shape, which is not that of the embedded image."""

    name, title = "wrong", "a vector that is announced as an image"

    def __call__(self, inputs):
        return inputs.embedded.mean((2, 3))


def test_a_representation_of_another_shape_than_it_says_is_refused(monkeypatch):
    monkeypatch.setitem(REPRESENTATIONS.members, "wrong", f"{__name__}:WrongShape")
    made = Representations("rgb", ["wrong"], [], 0, ManifoldSettings())
    batch = {"image": torch.rand(2, 3, 8, 8), "content_id": torch.arange(2)}
    with pytest.raises(ValueError, match=r"'wrong' gave shape \(3,\), its output_shape says \(3, 8, 8\)"):
        made(batch, ["wrong"])
