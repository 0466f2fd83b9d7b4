"""The cache of neighbours, alone and shared by several processes."""

from __future__ import annotations

import multiprocessing
import os
import time

import pytest
import torch
from killing import kill, start, wait_until
from reals_for_tests import build, random_bytes

from lightning_modules.artifacts import Manifold, NeighbourCache, neighbour_cache


@pytest.fixture
def manifold(tmp_path):
    return build(tmp_path / "m", random_bytes(30, 3, 4, 4))


def entries(*ids):
    ids = torch.tensor(ids)
    return ids, ids.double()[:, None] * 0.1, ids[:, None] % 30


def test_hits_and_misses(manifold):
    cache = NeighbourCache(manifold)
    cache.add(*entries(5, 2**62 + 1, 7))
    distance, index, missing = cache.lookup(torch.tensor([7, 6, 2**62 + 1]))
    assert missing.tolist() == [False, True, False]
    assert index.tolist() == [[7], [-1], [(2**62 + 1) % 30]]
    assert distance[0] == torch.tensor(7.0, dtype=torch.float64) * 0.1
    assert distance.isnan().tolist() == [[False], [True], [False]]
    assert len(cache) == 3


def test_what_is_flushed_is_there_the_next_time(manifold, tmp_path):
    cache = NeighbourCache(manifold)
    cache.add(*entries(1, 2))
    assert NeighbourCache(manifold).lookup(torch.tensor([1]))[2].all()
    cache.flush()
    cache.add(*entries(3))
    cache.flush()
    cache.flush()
    assert len(list(cache.folder.iterdir())) == 1, "a process has one file, however often it writes"
    distance, index, missing = NeighbourCache(manifold).lookup(torch.tensor([1, 2, 3]))
    assert not missing.any()
    assert torch.equal(distance, entries(1, 2, 3)[1])
    assert torch.equal(index, entries(1, 2, 3)[2])
    elsewhere = NeighbourCache(manifold, tmp_path / "elsewhere")
    assert len(elsewhere) == 0
    assert Manifold.open(tmp_path / "m", verify=True).hash == manifold.hash


def _write_until_killed(directory):
    cache = NeighbourCache(Manifold.open(directory))
    neighbour_cache._SECONDS = 0.05
    for step in range(10_000):
        cache.add(*entries(step))
        time.sleep(0.005)


def test_what_a_killed_process_has_found_is_there_the_next_time(manifold, tmp_path):
    process = start(_write_until_killed, tmp_path / "m")
    folder = NeighbourCache(manifold).folder
    wait_until(lambda: folder.is_dir() and len(list(folder.glob("*.safetensors"))), process)
    time.sleep(0.5)
    kill(process)
    half, living, recent = (
        folder / f".a.safetensors.{name}-0123abcd.partial" for name in (process.pid, os.getpid(), 1)
    )
    for file in (half, living):
        file.write_bytes(b"half")
        os.utime(file, (0, 0))
    recent.write_bytes(b"half")
    found = len(NeighbourCache(manifold))
    assert found > 20
    assert not half.exists()
    assert living.exists()
    assert recent.exists()
    assert len(list(folder.glob("*.safetensors"))) <= 2


def test_two_writers_lose_nothing(manifold):
    first, second = NeighbourCache(manifold), NeighbourCache(manifold)
    first.add(*entries(1, 2))
    second.add(*entries(2, 3))
    first.flush()
    second.flush()
    first.refresh()
    assert len(first) == 3
    assert len(NeighbourCache(manifold)) == 3


def _write(directory, rank):
    cache = NeighbourCache(Manifold.open(directory))
    for step in range(5):
        cache.add(*entries(*range(1000 * rank + 10 * step, 1000 * rank + 10 * step + 10)))
        cache.flush()


def test_many_processes_at_once(manifold, tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_write, args=(tmp_path / "m", rank)) for rank in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    cache = NeighbourCache(manifold)
    assert len(cache) == 200
    assert not cache.lookup(torch.tensor([0, 49, 3049]))[2].any()


def test_entries_of_another_manifold_are_not_read(manifold, tmp_path):
    cache = NeighbourCache(manifold, tmp_path / "cache")
    cache.add(*entries(1))
    cache.flush()
    other = build(tmp_path / "other", random_bytes(30, 3, 4, 4, seed=1))
    assert len(NeighbourCache(other, tmp_path / "cache")) == 0
    # Not even if somebody moves the file.
    folder = tmp_path / "cache" / other.hash
    cache.folder.rename(folder)
    with pytest.warns(UserWarning, match="belongs to another manifold"):
        assert len(NeighbourCache(other, tmp_path / "cache")) == 0


def test_a_damaged_file_costs_only_its_entries(manifold):
    for identifier in (1, 2):
        cache = NeighbourCache(manifold)
        cache.add(*entries(identifier))
        cache.flush()
    damaged = sorted(cache.folder.iterdir())[0]
    damaged.write_bytes(damaged.read_bytes()[:-3])
    with pytest.warns(UserWarning, match="left out"):
        assert len(NeighbourCache(manifold)) == 1


def test_a_manifold_in_memory_is_cached_in_memory(manifold, tmp_path):
    carried = Manifold.from_tensors(manifold.to_tensors())
    cache = NeighbourCache(carried)
    cache.add(*entries(1))
    cache.flush()
    assert cache.folder is None
    assert len(cache) == 1
    given = NeighbourCache(carried, tmp_path / "given")
    given.add(*entries(1))
    given.flush()
    assert len(NeighbourCache(carried, tmp_path / "given")) == 1


def test_survives_inference_mode(manifold):
    cache = NeighbourCache(manifold)
    with torch.inference_mode():
        cache.add(*entries(1, 2))
    distance, index, _ = cache.lookup(torch.tensor([1, 2]))
    distance += 1
    index += 1
    assert cache.lookup(torch.tensor([1]))[1].item() == 1


def test_nonsense_is_refused(manifold):
    cache = NeighbourCache(manifold)
    with pytest.raises(ValueError, match=r"1 ids, distances \(2,\)"):
        cache.add(torch.tensor([1]), torch.zeros(2), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="the manifold has 30"):
        cache.add(torch.tensor([1]), torch.zeros(1, 1), torch.tensor([[30]]))


def test_several_neighbours_are_kept_apart_from_the_nearest(manifold):
    ids, distance, index = torch.tensor([4, 9]), torch.rand(2, 3, dtype=torch.float64), torch.tensor([[0, 1, 2]] * 2)
    several = NeighbourCache(manifold, k=3)
    several.add(ids, distance, index)
    several.flush()
    single = NeighbourCache(manifold)
    assert single.lookup(ids)[2].all()
    single.add(*entries(4))
    single.flush()
    again = NeighbourCache(manifold, k=3).lookup(ids)
    assert torch.equal(again[0], distance)
    assert torch.equal(again[1], index)
    with pytest.raises(ValueError, match="expected 3 of each"):
        several.add(*entries(5))
