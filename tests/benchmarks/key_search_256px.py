"""What one iteration of a search for keys costs at 256 px: `python tests/benchmarks/key_search_256px.py`.

A StyleGAN2 of config-f at 256 px with random weights, 512 latents, a key of 64 bits on the axes of least variance, one
image. Processor time and memory of the full Jacobian (measured along some of the coordinates, and multiplied), of a
Jacobian along a Krylov space with its steps, of one along the key, and of a whole answer of `refined`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from measuring import peak_memory

from lightning_modules.fingerprints.decoders.least_squares import LeastSquaresDecoder
from lightning_modules.fingerprints.decoders.losses import make_loss
from lightning_modules.fingerprints.decoders.refinement import Refinement, RefinementSettings
from lightning_modules.fingerprints.decoders.search_settings import LeastSquaresSettings
from lightning_modules.fingerprints.decoders.search_space import SearchSpace
from lightning_modules.fingerprints.fingerprint import make_fingerprint
from lightning_modules.fingerprints.layouts import place_key
from lightning_modules.generators.stylegan2 import StyleGAN2Generator

BITS, MEASURED = 64, 32


class Counted:
    """Counts the images that a generator makes."""

    def __init__(self, synthesize):
        self.synthesize, self.images = synthesize, 0

    def __call__(self, latents):
        self.images += len(latents)
        return self.synthesize(latents)


def main() -> None:
    """Measure and print."""
    torch.manual_seed(0)
    generator = StyleGAN2Generator(256).freeze()
    latents = generator.sample_latents(2000, seed=1)
    placed = place_key(lambda: latents.split(500), 512, BITS, -BITS)
    fingerprint = make_fingerprint(placed, 1.0, -BITS, "flat", "hash", "random weights", centred=True)
    keys = torch.arange(BITS)[None] % 2
    with torch.no_grad():
        image = generator.synthesize(fingerprint.embed(generator.sample_latents(1, seed=2), keys)).clamp(0.0, 1.0)
    counted = Counted(generator.synthesize)
    search = LeastSquaresDecoder(counted, fingerprint, make_loss("spectrum"), LeastSquaresSettings(rows=8))
    values = torch.cat([torch.zeros(1, search.axes), torch.full((1, BITS), 0.5)], dim=1)
    centre, weight = values.clone(), torch.cat([torch.ones(1, search.axes), torch.full((1, BITS), 4.0)], dim=1)

    def as_made(images):
        return images

    def measured(what, run, times=1.0):
        counted.images, start = 0, time.process_time()
        with peak_memory() as peak:
            run()
        seconds = (time.process_time() - start) * times
        print(
            f"{what}: {seconds:.0f} s, {counted.images * times:.0f} syntheses, {peak.bytes / 2**20:.0f} MiB", flush=True
        )

    with torch.no_grad():
        target, made = search._features(image), search._made(values, as_made)
        measured("a synthesis", lambda: search._made(values, as_made))
        some = torch.eye(512)[None, :MEASURED]
        whole = 512 * made.numel() * 4 / 2**20
        columns = f"full Jacobian ({MEASURED} of 512 columns, time multiplied; all take {whole:.0f} MiB)"
        measured(columns, lambda: search._jacobian(values, made, as_made, some), 512 / MEASURED)
        given = (values, made, target, torch.full((1,), 1e-2), centre, weight, as_made)
        measured(f"{search.directions} directions and their steps", lambda: search._steps(*given, False))
        measured("key and what is confused with it, and their steps", lambda: search._steps(*given, True))
    space = SearchSpace(counted, fingerprint, torch.ones_like(fingerprint.other_deviation))
    refinement = Refinement(space, RefinementSettings(batch=1))
    measured("curvature of `refined`, once", refinement.curvature)
    start = torch.zeros(1, search.axes), torch.zeros(1, BITS)
    measured("a whole answer of `refined`", lambda: refinement.refine(image, *start))


if __name__ == "__main__":
    main()
