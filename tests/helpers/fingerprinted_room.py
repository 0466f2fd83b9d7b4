"""A small generator, its fingerprint and a registry, for tests that write fingerprinted images from a command line."""

from __future__ import annotations

import numpy as np
import torch

import evaluate
from lightning_modules.common.weights import content_hash
from lightning_modules.fingerprints.fingerprint import make_fingerprint, write_fingerprint
from lightning_modules.fingerprints.layouts import place_key
from lightning_modules.fingerprints.users.key_registry import KeyRegistry, write_registry
from lightning_modules.generators import load_generator
from lightning_modules.generators.checkpoints.own_file import write_generator
from lightning_modules.generators.checkpoints.stored import StoredGenerator
from lightning_modules.generators.stylegan2 import StyleGAN2Generator

BITS = 32  # long enough that a key's digits are nowhere by accident
KEYS = {"alice": "9c0d51f3", "bob": "63f2ae0c", "Ålice Õun": "00ff1e2d"}


def write_carrier(path, seed=0, w_dim=40):
    torch.manual_seed(seed)
    arguments = {"image_size": 16, "z_dim": 8, "w_dim": w_dim, "mapping_layers": 2, "channels": [8, 8, 8]}
    tensors = StyleGAN2Generator(**arguments).state_dict()
    write_generator(StoredGenerator("stylegan2", arguments, dict(tensors), {"format": "test"}), path)


def write_its_fingerprint(carrier, path, prior="projected", noise="fixed(0)"):
    generator = load_generator(carrier)
    latents = generator.sample_latents(300, seed=5)
    placed = place_key(lambda: iter([latents]), generator.latent_dim, BITS, -BITS)
    hashed = content_hash(generator.state_dict())
    path.parent.mkdir(exist_ok=True)
    made = make_fingerprint(placed, 2.0, -BITS, "flat", hashed, str(carrier), prior, noise)
    write_fingerprint(made, path)


def write_room(folder):
    """`g.safetensors`, `run/fingerprint.safetensors` and `users.json` with three users."""
    write_carrier(folder / "g.safetensors")
    write_its_fingerprint(folder / "g.safetensors", folder / "run" / "fingerprint.safetensors")
    registry = KeyRegistry(BITS)
    for user, key in KEYS.items():
        registry.add(user, key)
    write_registry(registry, folder / "users.json")
    return folder


def named(folder):
    """The arguments that name the three."""
    files = {"generator": "g.safetensors", "fingerprint": "run", "registry": "users.json"}
    return tuple(text for key, name in files.items() for text in (f"--{key}", folder / name))


def generate(*args):
    return evaluate.main(["generate", *map(str, args)])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def spellings(user):
    """How a key might be written down."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(KEYS[user]), np.uint8)).tolist()
    return [KEYS[user], "".join(map(str, bits)), str(bits), str([bool(bit) for bit in bits]), str(int(KEYS[user], 16))]
