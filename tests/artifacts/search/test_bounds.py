"""The pieces that exactness rests on: columns, contraction, boxes, slack, fallback."""

from __future__ import annotations

import math

import pytest
import torch
from reals_for_tests import brute_force, build, random_bytes, smooth_bytes

from lightning_modules.artifacts import SearchReport
from lightning_modules.artifacts.search.candidates import Candidates
from lightning_modules.artifacts.search.index import prepare
from lightning_modules.artifacts.search.lower_bounds import FullDistances, LeadingBounds, PairDistances
from lightning_modules.artifacts.search.pca_bounds import bound_slack
from lightning_modules.artifacts.search.refinement import tree_sum
from lightning_modules.artifacts.search.shared_coordinates import MAX_GROUP, SharedCoordinates, find_shared_coordinates


def test_grey_images_are_stored_once_and_their_border_not_at_all():
    images = smooth_bytes(300, size=10).flatten(1)
    columns = find_shared_coordinates(images, rows=64)
    assert columns.count == 81
    assert set(columns.multiplicity.tolist()) == {3}
    assert torch.equal(columns.restore(columns.compress(images)), images)


def test_columns_that_nearly_agree_are_not_merged():
    images = smooth_bytes(300, size=10).flatten(1)
    images[299, 155] ^= 1  # one pixel of one channel of the last image
    columns = find_shared_coordinates(images, rows=64)
    assert columns.count == 82
    assert torch.equal(columns.restore(columns.compress(images)), images)


def test_photographs_are_stored_as_they_are():
    assert find_shared_coordinates(random_bytes(100, 48), rows=64).is_identity


def test_many_equal_coordinates_are_split_into_groups():
    images = random_bytes(50, 3).repeat_interleave(torch.tensor([9, 1, 4]), 1)
    columns = find_shared_coordinates(images, rows=64)
    assert columns.multiplicity.tolist() == sorted(columns.multiplicity.tolist(), reverse=True)
    assert int(columns.multiplicity.max()) <= MAX_GROUP
    assert int(columns.multiplicity.sum()) == 14
    assert torch.equal(columns.restore(columns.compress(images)), images)


def test_squared_distance_splits_into_columns_and_remainder():
    references = smooth_bytes(200, size=8).flatten(1)
    columns = find_shared_coordinates(references, rows=64)
    assert not columns.is_identity
    queries = random_bytes(20, 192, seed=3).double()
    centres = columns.sums(queries) / columns.multiplicity
    stored = columns.compress(references).double()
    varying = ((stored[None] - centres[:, None]).square() * columns.multiplicity).sum(2)
    expected = (references.double()[None] - queries[:, None]).square().sum(2)
    torch.testing.assert_close(varying + columns.remainder(queries, centres)[:, None], expected, rtol=1e-12, atol=0)


def test_damaged_columns_are_refused():
    with pytest.raises(ValueError, match="gaps"):
        SharedCoordinates(torch.tensor([0, 2, 2]), torch.zeros(3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="not ordered"):
        SharedCoordinates(torch.tensor([0, 1, 1]), torch.zeros(3, dtype=torch.uint8))


@pytest.mark.parametrize("kind", ["noise", "smooth", "constant"])
def test_axes_never_lengthen_a_vector(tmp_path, kind):
    images = {"noise": random_bytes(600, 3, 6, 6), "smooth": smooth_bytes(600, noise=0.0)}.get(kind)
    images = torch.full((600, 3, 6, 6), 9, dtype=torch.uint8) if images is None else images
    projection = build(tmp_path / "m", images, axes=70)._references.projection
    assert torch.linalg.matrix_norm(projection.axes.double(), 2) <= 1
    assert torch.linalg.matrix_norm(projection.axes.double(), 2) > 0.999


@pytest.mark.parametrize("make", [random_bytes, smooth_bytes])
def test_bounds_never_exceed_the_distance(tmp_path, make):
    shape = (3, 12, 12) if make is random_bytes else ()
    images = make(900, *shape)
    references = build(tmp_path / "m", images, axes=90)._references
    projection = references.projection
    levels = torch.cat([make(40, *shape, seed=1), images[:20], random_bytes(20, 3, 12, 12, seed=2)]).flatten(1)
    block = prepare(levels.float() / 255, references, grid=True, describe_them=True)
    squared = torch.cdist(levels.double(), images.flatten(1).double()).square()
    ordered = squared[:, projection.cells.order]

    leading = LeadingBounds(block, projection, references.columns.count)
    width = len(projection.leading)
    values = torch.empty(80, width)
    leading.values(torch.arange(80), 0, width, values)
    slack = ordered + leading.addend[:, None] - values[:, :900].double()
    assert (slack >= 0).all()
    assert (values[:, 900:] > 1e38).all()

    boxes = projection.cells.bounds(leading.description, projection.leading_axes).double()
    for cell, (start, stop) in enumerate(zip(projection.cells.start[:-1], projection.cells.start[1:], strict=True)):
        assert (boxes[:, cell, None] <= ordered[:, start:stop] + leading.box_addend[:, None]).all()

    full = FullDistances(block, references, 928)
    values = torch.empty(80, 928)
    full.fill(0, values)
    assert (values[:, :900].double() <= squared + full.addend[:, None]).all()
    # The full product is the distance itself: no looser than twice its slack.
    gap = squared + full.addend[:, None] - values[:, :900].double()
    assert (gap <= 2.01 * (full.addend + block.remainder + block.norm.square())[:, None]).all()


@pytest.mark.parametrize("offset", [0.0, 0.25], ids=["8-bit", "between"])
@pytest.mark.parametrize("make", [random_bytes, smooth_bytes])
def test_compared_pairs_have_their_distance_up_to_the_slack(tmp_path, make, offset):
    shape = (3, 12, 12) if make is random_bytes else ()
    references = build(tmp_path / "m", make(600, *shape), axes=20)._references
    levels = make(30, *shape, seed=1).flatten(1).double() + offset
    block = prepare((levels / 255).float(), references, grid=offset == 0, describe_them=True)
    distances = PairDistances(references, block, 2**16)  # so little memory that references come in several parts
    generator = torch.Generator().manual_seed(3)
    query = torch.randint(0, 30, (500,), generator=generator)
    reference = torch.randint(0, 600, (500,), generator=generator)
    pairs = distances.values(Candidates(query, reference, torch.zeros(500)), torch.randperm(30, generator=generator))
    assert sorted(zip(pairs.query.tolist(), pairs.reference.tolist(), strict=True)) == sorted(
        zip(query.tolist(), reference.tolist(), strict=True)
    )
    points = references.columns.restore(references.points).double()
    asked = (levels / 255).float().double()[pairs.query] * 255
    squared = (asked - points[pairs.reference]).square().sum(1)
    gap = squared + distances.addend[pairs.query] - pairs.value.double()
    slack = (distances.addend + block.remainder + block.norm.square())[pairs.query]
    assert (gap >= 0).all()
    assert (gap <= 2.01 * slack).all()
    assert (slack < 0.01 * squared).all()


def test_slack_covers_the_worst_rounding():
    # Summing n float32 terms one after the other loses at most gamma_n, and here a good part of it.
    n = 4000
    terms = torch.full((n,), 1.0 + 2.0**-23)
    total = torch.zeros(())
    for term in terms:
        total = total + term
    error = abs(float(total) - float(terms.double().sum())) / float(terms.double().sum())
    assert 0 < error <= bound_slack(n, 1)
    assert bound_slack(n, 1) < 3 * n * 2.0**-24
    assert bound_slack(2**24, 1) == math.inf


def test_tree_sum_does_not_depend_on_the_batch():
    terms = torch.rand(65, 777, dtype=torch.float64)
    together = tree_sum(terms.clone())
    alone = torch.cat([tree_sum(row[None].clone()) for row in terms])
    assert torch.equal(together, alone)
    torch.testing.assert_close(together, terms.sum(1), rtol=1e-14, atol=0)


def test_noise_falls_back_to_the_plain_product(tmp_path):
    references = random_bytes(6000, 3, 10, 10)
    manifold = build(tmp_path / "m", references)
    queries = random_bytes(300, 3, 10, 10, seed=1)
    report = SearchReport()
    found = manifold.nearest(queries.float() / 255, report=report)
    assert report.by_bounds == 0
    assert report.evaluated < 300 * 20  # the attempt was given up before it cost much
    assert report.bounded < 1.4 * 300 * 6000
    assert torch.equal(found.index[::7], brute_force(queries[::7], references)[1])


def test_noise_among_images_falls_back_only_where_it_must(tmp_path):
    references = smooth_bytes(2000)
    manifold = build(tmp_path / "m", references)
    queries = torch.cat([smooth_bytes(100, seed=1), random_bytes(100, 3, 12, 12)])
    found = manifold.nearest(queries.float() / 255, k=2)
    assert torch.equal(found.index, brute_force(queries, references, 2)[1])
