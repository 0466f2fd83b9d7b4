"""Sets of pictures and what they share, against Python's sets."""

from __future__ import annotations

import hashlib
import io
import time

import pytest
import torch

from lightning_modules.common.content_ids import contained, content_id_to_int, id_set, join, overlap


def names(*numbers: int) -> list[str]:
    return [hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest() for number in numbers]


def test_a_set_is_sorted_and_has_each_id_once():
    found = id_set(names(3, 1, 2, 3, 1))
    assert found.tolist() == sorted({content_id_to_int(name) for name in names(1, 2, 3)})
    assert found.dtype == torch.int64
    assert torch.equal(id_set(found.flip(0).repeat(2).view(2, 3)), found)
    assert id_set([]).shape == (0,)
    assert int(found.min()) >= 0
    with pytest.raises(ValueError, match=r"found content ids of torch\.float32, expected int64"):
        id_set(torch.zeros(3))


def test_overlaps_are_those_of_sets():
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(0, 300, (200,), generator=generator)
    second = torch.randint(0, 300, (150,), generator=generator)
    both = set(first.tolist()) & set(second.tolist())
    assert overlap(first, second) == overlap(id_set(second), id_set(first)) == len(both)
    assert contained(second, id_set(first)).tolist() == [number in both for number in second.tolist()]
    assert join([id_set(first), id_set(second)]).tolist() == sorted(set(first.tolist()) | set(second.tolist()))
    assert join([]).shape == (0,)


@pytest.mark.parametrize("among", [[], [5], [2**63 - 1], [0, 2**63 - 1]])
def test_the_ends_of_the_range_and_empty_sets(among):
    identifiers = torch.tensor([0, 5, 2**63 - 1])
    among = torch.tensor(among, dtype=torch.int64)
    assert contained(identifiers, among).tolist() == [number in among.tolist() for number in identifiers.tolist()]
    assert overlap(identifiers, among) == len(among)
    assert contained(identifiers[:0], among).shape == (0,)


def test_a_million_pictures_cost_8_megabytes_and_are_compared_at_once():
    generator = torch.Generator().manual_seed(0)
    trained = id_set(torch.randint(0, 2**62, (1_000_000,), generator=generator))
    file = io.BytesIO()
    torch.save({"training_images": trained}, file)
    assert len(file.getvalue()) < 8.01e6
    file.seek(0)
    again = torch.load(file, weights_only=True)["training_images"]
    other = torch.cat([trained[::4], torch.randint(2**62, 2**63 - 1, (750_000,), generator=generator)])
    began = time.process_time()
    assert overlap(again, other) == 250_000
    assert time.process_time() - began < 2.0
