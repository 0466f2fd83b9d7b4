"""The threat model, each line tried: `python -m pytest tests/benchmarks -m benchmark -s -k threats`.

Every attack is scored by the verdict that `predict` gives, among so many users at a family-wise rate of 1e-6. Images of
victims and attackers come from different seeds; an attacker is given what the line says and nothing else.
THREATS_SURROGATE names a checkpoint of another decoder for the same fingerprint, for removal through it; of
`ldm64_corrected` that is `ldm64`, unless it is set.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.attacks import image_seeds, make_attack
from lightning_modules.common.images import eight_bit
from lightning_modules.fingerprints.decoders.base import DecoderParts, KeyDecoder
from lightning_modules.fingerprints.decoders.key_network import CalibratedNetwork
from lightning_modules.fingerprints.decoders.losses import make_loss
from lightning_modules.fingerprints.decoders.registry import make_decoder
from lightning_modules.fingerprints.fingerprint import Fingerprint
from lightning_modules.fingerprints.layouts import PlacedAxes, fit_principal_axes
from lightning_modules.fingerprints.secret_axes import turn_axes
from lightning_modules.fingerprints.users.keys import pack_keys
from lightning_modules.fingerprints.users.verdicts import attribute, combine
from lightning_modules.latent_fingerprint import LatentFingerprint

VICTIM_SEED, ATTACKER_SEED = 11, 99
RATE = 1e-6
TRAINED = Path(__file__).parents[2] / "lightning_modules" / "fingerprints" / "trained"


@dataclass(frozen=True)
class Scene:
    """Users, some of whom are victims: the first ones, each with as many natural latents as an attacker may see."""

    module: LatentFingerprint
    keys: Tensor  # bool (users, m)
    victims: int
    victims_latents: Tensor  # (victims, images, d), natural ones
    attackers_latents: Tensor  # (victims, d), natural ones
    fit_latents: Tensor  # (n, d), natural ones that the attacker fits axes to

    @property
    def fingerprint(self) -> Fingerprint:
        found = self.module.fingerprint
        assert found is not None
        return found

    def images(self, latents: Tensor) -> Tensor:
        """8-bit images of latents `(..., d)`, `(n, 3, H, W)`."""
        with torch.no_grad():
            return eight_bit(self.module.generator.synthesize(latents.flatten(0, -2)))

    def marked(self, count: int, fingerprint: Fingerprint | None = None) -> Tensor:
        """The first images of each victim, `(victims, count, 3, H, W)`."""
        fingerprint = fingerprint or self.fingerprint
        some = self.victims_latents[:, :count]
        count = some.shape[1]
        keys = self.keys[: self.victims, None].expand(-1, count, -1)
        made = self.images(fingerprint.embed(some.flatten(0, 1), keys.flatten(0, 1)))
        return made.unflatten(0, (self.victims, count))

    def verdicts(self, images: Tensor, decoder: KeyDecoder, owners: Tensor | None = None) -> str:
        """How many images of `(victims, 3, H, W)` name their victim, and how many anybody else."""
        evidence = decoder.decode(images).evidence
        packed, names = pack_keys(self.keys), [str(number) for number in range(len(self.keys))]
        named = [attribute(row[0], names, packed, RATE, row[1:] if len(row) > 1 else None).user for row in evidence]
        owners = torch.arange(self.victims) if owners is None else owners
        right = sum(name == str(int(owner)) for name, owner in zip(named, owners, strict=True))
        return f"{right} of {len(named)} name the victim, {sum(name is not None for name in named) - right} another"


def scene(trained: Path, users: int, victims: int, images: int, fitted: int) -> Scene:
    """A scene with the fingerprint and the network of a run folder."""
    module = LatentFingerprint.load_from_checkpoint(trained / "checkpoints" / "last.ckpt").eval()
    keys = torch.rand(users, module.fingerprint.bits, generator=torch.Generator().manual_seed(3)) < 0.5
    sample = module.generator.sample_latents
    seen = sample(victims * images, VICTIM_SEED).unflatten(0, (victims, images))
    return Scene(module, keys, victims, seen, sample(victims, ATTACKER_SEED), sample(fitted, ATTACKER_SEED, 10_000))


def attackers_axes(scene: Scene) -> PlacedAxes:
    """What an attacker makes of the generator alone: principal axes of other latents, divided as the method says."""
    fitted = fit_principal_axes(scene.fit_latents.split(500))
    shift, bits = scene.fingerprint.shift, scene.fingerprint.bits
    key = torch.zeros(len(fitted.axes), dtype=torch.bool)
    key[shift : shift + bits] = True
    return PlacedAxes(
        fitted.mean, fitted.axes[key][None], fitted.deviation[key][None], fitted.axes[~key], fitted.deviation[~key]
    )


def with_axes(fingerprint: Fingerprint, placed: PlacedAxes) -> Fingerprint:
    """The fingerprint on other axes, all kept."""
    return replace(
        fingerprint,
        mean=placed.mean.float(),
        key_axes=placed.key_axes.float(),
        key_deviation=placed.key_deviation.float(),
        other_axes=placed.other_axes.float(),
        other_deviation=placed.other_deviation.float(),
    )


def searching(scene: Scene, fingerprint: Fingerprint) -> KeyDecoder:
    """A decoder that needs no training, for a fingerprint on other axes."""
    parts = DecoderParts(scene.module.generator, fingerprint, scene.module.network, make_loss("pixels"))
    return make_decoder("inversion", parts, {"iterations": 4})


STEPS, RATE_OF_STEPS, PUSHES = 150, 0.05, 20


def averaged_latents(scene: Scene, images: Tensor) -> Tensor:
    """Mean latent of each victim's images `(victims, n, 3, H, W)`, `(victims, d)`: encoded, then searched by Adam."""
    flat = images.flatten(0, 1)
    with torch.no_grad():
        latents = scene.module.generator.encode(flat)
    latents.requires_grad_(True)
    optimiser = torch.optim.Adam([latents], lr=RATE_OF_STEPS)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        loss = (scene.module.generator.synthesize(latents) - flat).square().sum()
        (latents.grad,) = torch.autograd.grad(loss, latents)
        optimiser.step()
        decay.step()
    return latents.detach().unflatten(0, images.shape[:2]).mean(dim=1)


def copied(scene: Scene, axes: Tensor, seen: Tensor) -> Tensor:
    """The attacker's images with the coordinates along axes `(k, d)` of the victims' mean latents `(victims, d)`."""
    own = scene.attackers_latents
    return scene.images(own + (seen - own) @ axes.T @ axes)


def read_and_written(scene: Scene) -> dict[str, str]:
    """Attackers with fingerprint and decoder who read a victim's key off images, and mark others with it."""
    public, network = scene.fingerprint, scene.module.key_decoder()
    found = {}
    for count in (1, 4):
        read = torch.stack([combine(network.decode(images).logits) for images in scene.marked(count)]) > 0
        made = scene.images(public.embed(scene.attackers_latents, read))
        right = (read == scene.keys[: scene.victims]).float().mean()
        found[f"fingerprint and decoder, key read off {count}"] = (
            f"{right:.3f} of the bits; {scene.verdicts(made, network)}"
        )
    return found


def copied_from_images(scene: Scene, reader: Callable[[Scene, Fingerprint], KeyDecoder] = searching) -> dict[str, str]:
    """Attackers with the generator alone who make images that name a victim."""
    public, found = scene.fingerprint, {}
    placed = attackers_axes(scene)
    theirs = with_axes(public, placed)
    subspace = placed.key_axes[0].float()
    owners = {
        "principal axes": public,
        "secret axes": with_axes(public, turn_axes(public_axes(public), b"s" * 32, 0)),
        "secret axes of a window of 128": with_axes(public, turn_axes(public_axes(public), b"s" * 32, 128)),
    }
    wide = torch.cat([subspace, placed.other_axes[public.shift : public.shift + 128 - public.bits].float()])
    for name, fingerprint in owners.items():
        decoder = reader(scene, fingerprint)
        honest = scene.marked(1, fingerprint)[:, 0]
        found[f"{name}: the victims' own images"] = scene.verdicts(honest, decoder)
        seen = averaged_latents(scene, scene.marked(4, fingerprint))
        read = (seen - theirs.mean) @ subspace.T > 0
        right = (read == scene.keys[: scene.victims]).float().mean()
        made = scene.images(theirs.embed(scene.attackers_latents, read))
        found[f"generator alone, {name}: bits read off 4"] = f"{right:.3f} of the bits; {scene.verdicts(made, decoder)}"
        for images in (4, scene.victims_latents.shape[1]):
            seen = averaged_latents(scene, scene.marked(images, fingerprint))
            made = copied(scene, wide if "window" in name else subspace, seen)
            found[f"generator alone, {name}: coordinates copied from {images}"] = scene.verdicts(made, decoder)
    return found


def public_axes(fingerprint: Fingerprint) -> PlacedAxes:
    """The axes of a fingerprint that keeps them all."""
    tensors = (fingerprint.mean, fingerprint.key_axes, fingerprint.key_deviation)
    others = (fingerprint.other_axes, fingerprint.other_deviation)
    return PlacedAxes(*(tensor.double() for tensor in (*tensors, *others)))


def removed(scene: Scene, surrogate: CalibratedNetwork | None = None) -> dict[str, str]:
    """Attackers who want nobody named, and the distance of their images to the marked ones."""
    decoder, network = scene.module.key_decoder(), scene.module.network
    marked = scene.marked(scene.victims_latents.shape[1])
    images = marked[:, 0]
    found = {"untouched": scene.verdicts(images, decoder)}

    def tell(name: str, made: Tensor) -> None:
        error = (made - images).square().mean(dim=(1, 2, 3))
        quality = float((-10.0 * error.clamp_min(1e-10).log10()).mean())
        found[name] = f"{scene.verdicts(made, decoder)}; PSNR {quality:.1f} dB"

    seeds = image_seeds(0, torch.arange(len(images)))
    own = scene.module.generator_name
    for name in ("score-ldm" if own.startswith("emoji") else "emoji/score-ldm", own):
        tell(f"regeneration by {name}", make_attack({"kind": "regeneration", "autoencoder": name}).real(images, seeds))
    with torch.no_grad():
        latents = scene.module.generator.encode(images)
    axes = attackers_axes(scene).key_axes[0].float()
    tell("key axes overwritten with another image's", copied_back(scene, latents, axes))
    for count in (2, 4, 8):
        others = torch.stack([images.roll(shift, 0) for shift in range(count)]).mean(dim=0)
        tell(f"mean of images of {count} users", eight_bit(others))
    if marked.shape[1] >= 4:
        tell("mean of 4 images of one user", eight_bit(marked[:, :4].mean(dim=1)))
    contenders = {"the network": network}
    if surrogate is not None:
        contenders["another network"] = surrogate
    for name, attacked in contenders.items():
        for levels in (1, 2, 4, 8):
            tell(f"gradient of {name}, {levels} levels", pushed(images, attacked, levels))
    other = torch.arange(scene.victims).roll(1)
    for levels in (1, 2, 4, 8):
        made = pushed(images, network, levels, scene.keys[other])
        found[f"gradient of the network towards another's key, {levels} levels"] = scene.verdicts(made, decoder, other)
    return found


def copied_back(scene: Scene, latents: Tensor, axes: Tensor) -> Tensor:
    """Images of latents `(n, d)` whose coordinates along axes are those of latents without key."""
    return scene.images(latents + (scene.attackers_latents - latents) @ axes.T @ axes)


def pushed(images: Tensor, network: CalibratedNetwork, levels: int, target: Tensor | None = None) -> Tensor:
    """Projected gradient descent within so many levels of 255: off the bits read, or towards target keys `(n, m)`."""
    with torch.no_grad():
        read = (network(images)[0] > 0).float()
    reach = levels / 255.0
    made = images.clone()
    for _ in range(PUSHES):
        made.requires_grad_(True)
        logits = network(made)[0]
        wanted = 1.0 - read if target is None else target.float()
        (gradient,) = torch.autograd.grad(F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum"), made)
        made = (made - max(reach / 8, 0.5 / 255) * gradient.sign()).detach()
        made = torch.minimum(torch.maximum(made, images - reach), images + reach).clamp(0.0, 1.0)
    return eight_bit(made)


def shown(title: str, found: dict[str, str]) -> None:
    print(f"\n{title}")
    for name, value in found.items():
        print(f"  {name}: {value}")


NAMES = ("ldm64", "ldm64_corrected", "ldm64_emoji")
SURROGATES = {"ldm64_corrected": TRAINED / "ldm64" / "checkpoints" / "last.ckpt"}


@pytest.fixture(scope="module", params=NAMES)
def stage(request: pytest.FixtureRequest) -> tuple[str, Scene]:
    return request.param, scene(TRAINED / request.param, users=1000, victims=20, images=16, fitted=3000)


@pytest.mark.benchmark
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_forged(stage: tuple[str, Scene]) -> None:
    name, scene = stage
    shown(f"{name}: images that name a victim", read_and_written(scene))
    if name == "ldm64":  # the fingerprint of ldm64_corrected is the same, and the decoder a search
        shown(f"{name}: images that name a victim, made with the generator alone", copied_from_images(scene))


@pytest.mark.benchmark
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_removed(stage: tuple[str, Scene]) -> None:
    name, scene = stage
    other = os.environ.get("THREATS_SURROGATE", SURROGATES.get(name))
    surrogate = None if other is None else LatentFingerprint.load_from_checkpoint(other).eval().network
    shown(f"{name}: images that name nobody", removed(scene, surrogate))
