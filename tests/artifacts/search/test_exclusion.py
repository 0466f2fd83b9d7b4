"""Leave-one-out and exclusion by content id or index."""

from __future__ import annotations

import pytest
import torch
from reals_for_tests import brute_force, build, random_bytes, smooth_bytes


@pytest.mark.parametrize("axes", [0, 30])
@pytest.mark.parametrize("k", [1, 3])
def test_leave_one_out(tmp_path, axes, k):
    references = smooth_bytes(700, size=6)
    references[650] = references[5]  # a duplicate under another id may be returned
    manifold = build(tmp_path / "m", references, axes=axes)
    found = manifold.nearest(references.float() / 255, k, exclude=manifold.content_ids)
    distance, index = brute_force(references, references, k, banned=torch.arange(700)[:, None])
    assert torch.equal(found.index, index)
    assert torch.equal(found.distance, distance * (1 / 255))
    assert found.index[5, 0] == 650


@pytest.mark.parametrize("axes", [0, 30])
def test_many_excluded_by_id_and_by_index(tmp_path, axes):
    references = smooth_bytes(800)
    manifold = build(tmp_path / "m", references, axes=axes)
    queries = smooth_bytes(40, seed=1)
    _, nearest = brute_force(queries, references, 12)
    by_id = torch.cat([manifold.content_ids[nearest[:, :6]], torch.full((40, 2), -1), torch.full((40, 1), 7)], 1)
    found = manifold.nearest(queries.float() / 255, 2, exclude=by_id, exclude_index=nearest[:, 6:9])
    assert torch.equal(found.index, nearest[:, 9:11])


def test_an_id_that_several_points_carry_excludes_all_of_them(tmp_path):
    references = random_bytes(60, 3, 4, 4)
    ids = torch.arange(60) % 20
    manifold = build(tmp_path / "m", references)
    manifold.content_ids = ids
    found = manifold.nearest(references[:20].float() / 255, exclude=ids[:20])
    banned = torch.arange(20)[:, None] + torch.tensor([0, 20, 40])
    assert torch.equal(found.index, brute_force(references[:20], references, banned=banned)[1])


def test_exclusion_that_leaves_too_few_is_an_error(tmp_path):
    manifold = build(tmp_path / "m", random_bytes(5, 3, 4, 4))
    queries = torch.zeros(2, 3, 4, 4)
    exclude = torch.tensor([[1000, 1001, 1001, -1], [1004, 5, 6, 7]])
    with pytest.raises(ValueError, match=r"4 neighbours were asked for, but query 0 has 3 of 5"):
        manifold.nearest(queries, 4, exclude=exclude)
    assert manifold.nearest(queries, 3, exclude=exclude).index[0].sort().values.tolist() == [2, 3, 4]


def test_wrong_exclusions_are_refused(tmp_path):
    manifold = build(tmp_path / "m", random_bytes(5, 3, 4, 4))
    queries = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"exclude has shape \(3,\)"):
        manifold.nearest(queries, exclude=torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="exclude_index has shape"):
        manifold.nearest(queries, exclude_index=torch.zeros(2))
    with pytest.raises(IndexError, match="names point 5, the manifold has 5"):
        manifold.nearest(queries, exclude_index=torch.tensor([0, 5]))
