"""The search against float64 brute force."""

from __future__ import annotations

import pytest
import torch
from reals_for_tests import FlatEmbedding, brute_force, build, random_bytes, smooth_bytes

from lightning_modules.artifacts import Manifold, SearchReport


def assert_exact(manifold, levels, references, k=1, **options):
    """8-bit queries: distances must be equal as numbers, ties included."""
    found = manifold.nearest(levels.float() / 255, k, **options)
    distance, index = brute_force(levels, references, k)
    assert torch.equal(found.index, index)
    assert torch.equal(found.distance, distance * (1 / 255))


@pytest.mark.parametrize("k", [1, 2, 7])
@pytest.mark.parametrize("axes", [0, 5, 40, 200])
def test_random_images(tmp_path, k, axes):
    references = random_bytes(700, 3, 8, 8)
    manifold = build(tmp_path / "m", references, axes=axes)
    assert_exact(manifold, random_bytes(90, 3, 8, 8, seed=1), references, k)


@pytest.mark.parametrize("k", [1, 3])
def test_images_near_a_plane(tmp_path, k):
    references = smooth_bytes(1500)
    manifold = build(tmp_path / "m", references)
    report = SearchReport()
    assert_exact(manifold, smooth_bytes(200, seed=1), references, k, report=report)
    assert report.by_bounds == report.queries == 200
    assert report.evaluated < 200 * 60


def test_boxes_leave_cells_out(tmp_path):
    # Eight clusters far apart: a query needs to look at its own only.
    centres = random_bytes(8, 3, 6, 6, seed=7) // 2 + 60
    references = (centres.repeat(375, 1, 1, 1) + random_bytes(3000, 3, 6, 6) // 32).to(torch.uint8)
    queries = (centres.repeat(256, 1, 1, 1) + random_bytes(2048, 3, 6, 6, seed=1) // 32).to(torch.uint8)
    manifold = build(tmp_path / "m", references)
    report = SearchReport()
    found = manifold.nearest(queries.float() / 255, report=report)
    assert torch.equal(found.index[::20], brute_force(queries[::20], references)[1])
    assert report.by_bounds == 2048
    assert report.bounded < 0.8 * 2048 * 3000


def test_near_duplicates_that_differ_in_one_pixel(tmp_path):
    base = random_bytes(150, 3, 12, 12)
    references = base.repeat(20, 1, 1, 1)
    rows, flat = torch.arange(3000), references.view(3000, -1)
    places = torch.randint(0, flat.shape[1], (3000,), generator=torch.Generator().manual_seed(5))
    flat[rows, places] += (flat[rows, places] < 255).to(torch.uint8) * 2 - 1
    references = references[torch.randperm(3000, generator=torch.Generator().manual_seed(6))]
    manifold = build(tmp_path / "m", references, axes=150)
    report = SearchReport()
    assert_exact(manifold, torch.cat([base[:40], references[:50]]), references, 5, report=report)
    assert report.by_bounds == 90


def test_exact_duplicates_go_to_the_lowest_index(tmp_path):
    references = smooth_bytes(40, seed=3).repeat(15, 1, 1, 1)
    for axes in (0, 20):
        manifold = build(tmp_path / f"m{axes}", references, axes=axes)
        found = manifold.nearest(references[:40].float() / 255, k=3)
        assert torch.equal(found.index, torch.arange(40)[:, None] + torch.tensor([0, 40, 80]))
        assert torch.equal(found.distance, torch.zeros(40, 3, dtype=torch.float64))


def test_ties_between_different_images_go_to_the_lowest_index(tmp_path):
    # Every reference differs from the query by the same amount in another pixel.
    query = torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)
    references = query.repeat(192, 1, 1, 1)
    references.view(192, 192)[torch.arange(192), torch.arange(192).flip(0)] += 7
    manifold = build(tmp_path / "m", references, axes=16)
    found = manifold.nearest(query.float() / 255, k=192)
    assert torch.equal(found.index[0], torch.arange(192))
    assert found.distance.unique().tolist() == [7 / 255]


@pytest.mark.parametrize("divide", [lambda x: x / 255, lambda x: x * (1 / 255), lambda x: (x.double() / 255).float()])
def test_every_usual_way_to_scale_bytes_counts_as_8_bit(tmp_path, divide):
    references = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1).expand(256, 3, 4, 4)
    manifold = build(tmp_path / "m", references)
    found = manifold.nearest(divide(references.float()), k=3)
    # Brightness b lies between b - 1 and b + 1 at exactly equal distance.
    assert torch.equal(found.index[1:-1], torch.arange(1, 255)[:, None] + torch.tensor([0, -1, 1]))
    assert torch.equal(found.distance[1:-1, 1], found.distance[1:-1, 2])
    assert (found.distance[:, 0] == 0).all()


@pytest.mark.parametrize("axes", [0, 30])
def test_queries_off_the_8_bit_grid(tmp_path, axes):
    references = smooth_bytes(800)
    manifold = build(tmp_path / "m", references, axes=axes)
    generator = torch.Generator().manual_seed(1)
    queries = smooth_bytes(60, seed=4).float() / 255
    queries[1::2] += 0.05 * torch.randn(queries[1::2].shape, generator=generator)  # every other one, outside [0, 1] too
    found = manifold.nearest(queries, k=4)
    distance, index = brute_force(queries.double() * 255, references, 4, scale=1 / 255)
    assert torch.equal(found.index, index)
    torch.testing.assert_close(found.distance, distance, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.distance[1::2], distance[1::2], rtol=1e-13, atol=0)


@pytest.mark.parametrize("axes", [0, 8, 40])
def test_float_embedding(tmp_path, axes):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(900, 3, 4, 4, generator=generator)
    images[500:520] = images[:20]  # exact duplicates
    images[520:540] = images[:20] + 1e-6 * torch.rand(20, 3, 4, 4, generator=generator)
    manifold = build(tmp_path / "m", images, FlatEmbedding(), axes=axes)
    assert manifold.shape == (48,)
    queries = torch.cat([images[:20] * 2, torch.rand(50, 3, 4, 4, generator=generator) * 2]).flatten(1)
    found = manifold.nearest(queries, k=3)
    distance, index = brute_force(queries, images * 2, 3)
    assert torch.equal(found.index, index)
    torch.testing.assert_close(found.distance, distance, rtol=1e-12, atol=0)


def test_far_from_the_origin_small_differences_still_decide(tmp_path):
    # Products of float32 numbers cannot tell these apart; the rounding slack has to let all of them through.
    generator = torch.Generator().manual_seed(2)
    images = 300 + 1e-3 * torch.rand(700, 3, 4, 4, generator=generator)
    manifold = build(tmp_path / "m", images, FlatEmbedding(1.0), axes=10)
    queries = (300 + 1e-3 * torch.rand(30, 48, generator=generator)).float()
    assert torch.equal(manifold.nearest(queries, k=2).index, brute_force(queries, images.float(), 2)[1])


@pytest.mark.parametrize("limit", [150_000, 1_000_000, 2**28])
@pytest.mark.parametrize("kind", ["noise", "smooth"])
def test_any_memory_limit_gives_the_same_answer(tmp_path, limit, kind):
    make = random_bytes if kind == "noise" else None
    references = make(700, 3, 6, 6) if make else smooth_bytes(700, size=6)
    queries = make(60, 3, 6, 6, seed=1) if make else smooth_bytes(60, size=6, seed=1)
    manifold = build(tmp_path / "m", references, axes=20)
    assert_exact(manifold, queries, references, 3, memory_limit=limit)


def test_too_low_a_memory_limit_says_what_is_needed(tmp_path):
    manifold = build(tmp_path / "m", random_bytes(20, 3, 6, 6))
    with pytest.raises(ValueError, match=r"needs a memory limit of at least \d+ bytes, found 1000") as caught:
        manifold.nearest(torch.zeros(1, 3, 6, 6), memory_limit=1000)
    needed = int(str(caught.value).split("at least ")[1].split()[0])
    assert manifold.nearest(torch.zeros(1, 3, 6, 6), memory_limit=needed).index.shape == (1, 1)


@pytest.mark.parametrize("level", [0, 37, 255])
def test_constant_references_and_a_single_one(tmp_path, level):
    constant = torch.full((600, 3, 8, 8), level, dtype=torch.uint8)
    queries = torch.cat([constant[:2], random_bytes(5, 3, 8, 8)])
    for count in (1, 33, 600):
        manifold = build(tmp_path / f"{count}", constant[:count])
        assert_exact(manifold, queries, constant[:count], min(count, 3))


def test_rank_deficient_references_and_queries_far_outside_their_span(tmp_path):
    references = smooth_bytes(700, noise=0.0, axes=3)
    manifold = build(tmp_path / "m", references, axes=60)
    coloured = random_bytes(40, 3, 12, 12, seed=8)  # colour and border are outside of what grey references span
    report = SearchReport()
    assert_exact(manifold, coloured, references, 4, report=report)
    assert report.by_bounds == 40


def test_large_and_small_queries_together(tmp_path):
    references = smooth_bytes(700)
    manifold = build(tmp_path / "m", references, axes=20)
    queries = torch.cat([smooth_bytes(3, seed=2).float() / 255 * 1000, smooth_bytes(3, seed=2).float() / 255 / 1000])
    assert torch.equal(manifold.nearest(queries).index, brute_force(queries.double() * 255, references)[1])


def test_search_leaves_precision_settings_and_autocast_alone(tmp_path):
    references = smooth_bytes(700)
    manifold = build(tmp_path / "m", references, axes=20)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
            assert_exact(manifold, smooth_bytes(50, seed=1), references, 2)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_gradients_do_not_flow_into_the_search(tmp_path):
    manifold = build(tmp_path / "m", random_bytes(30, 3, 4, 4))
    found = manifold.nearest(torch.rand(2, 3, 4, 4, requires_grad=True))
    assert not found.distance.requires_grad


def test_no_queries(tmp_path):
    found = build(tmp_path / "m", random_bytes(30, 3, 4, 4)).nearest(torch.zeros(0, 3, 4, 4), k=2)
    assert found.index.shape == found.distance.shape == (0, 2)


def test_wrong_queries_are_refused(tmp_path):
    manifold = build(tmp_path / "m", random_bytes(30, 3, 4, 4))
    with pytest.raises(ValueError, match=r"shape \(2, 3, 5, 4\), expected \(N, 3, 4, 4\)"):
        manifold.nearest(torch.zeros(2, 3, 5, 4))
    with pytest.raises(ValueError, match=r"shape \(3, 4, 4\)"):
        manifold.nearest(torch.zeros(3, 4, 4))
    queries = torch.zeros(3, 3, 4, 4)
    for bad in (torch.nan, torch.inf):
        queries[1, 0, 0, 0] = bad
        with pytest.raises(ValueError, match=r"Queries \[1\] hold values that are NaN"):
            manifold.nearest(queries)
    with pytest.raises(ValueError, match="k must be at least 1"):
        manifold.nearest(torch.zeros(1, 3, 4, 4), k=0)
    with pytest.raises(ValueError, match=r"31 neighbours were asked for, but query 0 has 30 of 30"):
        manifold.nearest(torch.zeros(1, 3, 4, 4), k=31)


def test_opened_and_in_memory_manifolds_agree(tmp_path):
    references = smooth_bytes(700)
    stored = build(tmp_path / "m", references)
    carried = Manifold.from_tensors(stored.to_tensors())
    queries = smooth_bytes(60, seed=1).float() / 255
    for k in (1, 3):
        first, second = stored.nearest(queries, k), carried.nearest(queries, k)
        assert torch.equal(first.index, second.index)
        assert torch.equal(first.distance, second.distance)
