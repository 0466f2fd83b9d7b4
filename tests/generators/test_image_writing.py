"""The same bytes on any number of processes, after any interruption, for any n."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_modules.common.images import to_uint8
from lightning_modules.generators import image_writing as sampling
from lightning_modules.generators.bundled.manifest import bundled_sources
from lightning_modules.generators.image_writing import (
    BLOCK,
    block_size,
    generate_images,
    generate_sources,
    image_path,
    synthesize_block,
    write_png,
)
from lightning_modules.generators.small_networks.dcgan import DCGANGenerator


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def generator():
    torch.manual_seed(0)
    return DCGANGenerator(latent_dim=8, width=8).freeze()


def test_files_hold_the_images_of_their_index(generator, tmp_path):
    generate_images(generator, tmp_path, 5, seed=3, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{i:07d}.png" for i in range(5)]
    with torch.no_grad():
        expected = to_uint8(generator.synthesize(generator.sample_latents(BLOCK, 3)))
    for i in range(5):
        with Image.open(image_path(tmp_path, i)) as image:
            assert image.mode == "RGB"
            assert image.info == {}  # nothing but pixels
            np.testing.assert_array_equal(np.asarray(image), expected[i].permute(1, 2, 0).numpy())


def test_one_and_two_processes_give_the_same_bytes(tmp_path):
    n = 2 * BLOCK + 5
    generate_images("gan-dcgan", tmp_path / "one", n, seed=1, processes=1, progress=False)
    generate_images("gan-dcgan", tmp_path / "two", n, seed=1, processes=2, progress=False)
    assert len(contents(tmp_path / "one")) == n
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.slow
def test_every_source_gives_the_same_bytes_on_any_number_of_processes(tmp_path):
    for processes in (1, 2, 3):
        root = tmp_path / str(processes)
        folders = {source: root / source for source in bundled_sources()}
        generate_sources({source: source for source in folders}, folders, BLOCK + 2, 4, processes, progress=False)
    for source in bundled_sources():
        one = contents(tmp_path / "1" / source)
        assert len(one) == BLOCK + 2
        assert contents(tmp_path / "2" / source) == one
        assert contents(tmp_path / "3" / source) == one


def test_bytes_do_not_depend_on_the_threads_of_the_caller(generator, tmp_path):
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            generate_images(generator, tmp_path / str(count), 40, seed=1, progress=False)
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_a_longer_run_begins_with_the_shorter_one(generator, tmp_path):
    generate_images(generator, tmp_path / "long", BLOCK + 9, seed=1, progress=False)
    generate_images(generator, tmp_path / "short", 3, seed=1, progress=False)
    short, whole = contents(tmp_path / "short"), contents(tmp_path / "long")
    assert short == {name: whole[name] for name in short}


def test_an_interrupted_run_goes_on_and_gives_the_same_bytes(generator, tmp_path, monkeypatch):
    n = 2 * BLOCK
    generate_images(generator, tmp_path / "whole", n, seed=2, progress=False)
    folder = tmp_path / "interrupted"
    written = []

    def failing(pixels, path):
        if len(written) == BLOCK + 10:
            path.with_name(f".{path.name}.1.tmp").write_bytes(b"half a fi")
            raise KeyboardInterrupt
        write_png(pixels, path)
        written.append(path)

    with monkeypatch.context() as patch:
        patch.setattr(sampling, "write_png", failing)
        with pytest.raises(KeyboardInterrupt):
            generate_images(generator, folder, n, seed=2, progress=False)
    kept = {path: path.stat().st_mtime_ns for path in written}
    calls = []
    monkeypatch.setattr(sampling, "synthesize_block", lambda *args: calls.append(args[2]) or synthesize_block(*args))
    generate_images(generator, folder, n, seed=2, progress=False)
    assert contents(folder) == contents(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in written} == kept  # finished files were not touched
    assert calls == [BLOCK]  # nor was a finished block computed again


def test_a_block_starts_at_a_multiple_of_its_size(generator):
    with pytest.raises(ValueError, match="multiple"):
        synthesize_block(generator, 0, 5)


class Grey:
    """Images whose level is the latent."""

    latent_dim = 1

    def __init__(self, image_size):
        self.image_size = image_size
        self.counts = []

    def sample_latents(self, n, seed, start=0):
        self.counts.append((start, n))
        return torch.arange(start, start + n)[:, None] / 255.0

    def synthesize(self, latents):
        return latents[:, :, None, None].expand(-1, 3, self.image_size, self.image_size)


@pytest.mark.parametrize(
    ("image_size", "size"), [(4, 32), (32, 32), (64, 32), (100, 8), (128, 8), (256, 2), (512, 1), (1024, 1)]
)
def test_large_images_are_computed_in_smaller_blocks(image_size, size):
    large = Grey(image_size)
    assert block_size(large) == size
    assert synthesize_block(large, 0, 2 * size)[:, 0, 0, 0].tolist() == list(range(2 * size, 3 * size))


def test_every_index_has_its_own_image_whatever_the_block(tmp_path):
    large = Grey(128)
    generate_images(large, tmp_path, 19, seed=0, progress=False)
    for index in range(19):
        with Image.open(image_path(tmp_path, index)) as image:
            assert image.getpixel((0, 0)) == (index,) * 3
    assert large.counts == [(0, 8), (8, 8), (16, 8)]


def test_a_generator_that_cannot_repeat_its_images_is_refused(generator, tmp_path):
    generator.reproducible = False
    for refuse in (
        lambda: generate_images(generator, tmp_path / "a", 4, seed=0),
        lambda: synthesize_block(generator, 0, 0),
    ):
        with pytest.raises(
            ValueError, match=r"draws new noise for each image.*expected noise fixed.SEED., buffers or none"
        ):
            refuse()
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(("n", "processes"), [(0, 1), (4, 0)])
def test_nothing_to_do_is_an_error(generator, tmp_path, n, processes):
    with pytest.raises(ValueError, match="at least 1"):
        generate_images(generator, tmp_path, n, seed=0, processes=processes)


def test_png_holds_the_pixels_and_leaves_nothing_beside_them(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
    write_png(pixels, tmp_path / "a.png")
    with Image.open(io.BytesIO((tmp_path / "a.png").read_bytes())) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def children(parent: int) -> set[int]:
    """Processes begun by another, from /proc."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name_and_rest = stat.read_text().rpartition(")")[2].split()
            if int(name_and_rest[1]) == parent:
                found.add(int(stat.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path):
    """A killed parent cannot end its workers; they see it themselves."""
    script = tmp_path / "run.py"
    script.write_text(
        "from pathlib import Path; from lightning_modules.generators.image_writing import generate_images\n"
        "if __name__ == '__main__':\n"
        f"    generate_images('flow-realnvp', Path({str(tmp_path / 'out')!r}), 200_000, 0, 2, False)"
    )
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": root})
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob("*.png")) and time.monotonic() < deadline:
        time.sleep(0.1)
    workers = children(process.pid)
    process.kill()
    process.wait()
    assert len(workers) >= 2
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = [worker for worker in workers if Path(f"/proc/{worker}").exists()]
    for worker in left:
        os.kill(worker, 9)
    assert left == []
