"""Searches for keys inside Lightning: predict with gradients, tests that go on where they were stopped."""

from __future__ import annotations

import json
import stat

import pytest
from dotted_settings import grouped
from png_files import save_png
from tiny_fingerprints import BITS, write_stylegan2

import evaluate
from lightning_modules.common.images import to_uint8
from lightning_modules.fingerprints.decoders.inversion import InversionDecoder
from lightning_modules.fingerprints.users.key_registry import KeyRegistry, write_registry
from lightning_modules.generators import load_generator
from lightning_modules.latent_fingerprint import LatentFingerprint

PAPER = ["--model.init_args.decoder.name=paper", "--model.init_args.decoder.options={starts: 2, steps: 3}"]
FEW = ["--model.init_args.test_attacks=[]", "--data.init_args.test_images=6", "--data.init_args.negative_images=4"]
SMALL = {
    "key.bits": BITS,
    "key.shift": -BITS,
    "key.fit_latents": 300,
    "training.backbone": "test_resnet",
    "training.stem": "small",
}


@pytest.mark.parametrize("decoder", [PAPER, ["--model.init_args.decoder.name=inversion"]], ids=["paper", "inversion"])
def test_predict_searches_with_gradients(run, stylegan2, tmp_path, decoder):
    generator = load_generator(stylegan2)
    (tmp_path / "images").mkdir()
    for index, image in enumerate(to_uint8(generator.synthesize(generator.sample_latents(2, seed=5)))):
        save_png(tmp_path / "images" / f"{index}.png", image.permute(1, 2, 0).numpy())
    registry = KeyRegistry(BITS)
    registry.create("someone")
    write_registry(registry, tmp_path / "users.json")
    given = ["--images", str(tmp_path / "images"), "--registry", str(tmp_path / "users.json")]
    if decoder is not PAPER:
        decoder = [*decoder, "--model.init_args.decoder.options={iterations: 1}"]
    out = evaluate.main(["predict", "--ckpt_path", str(run), "--run_dir", str(tmp_path / "r"), *given, *decoder])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 2
    for row in rows:
        assert row["loss"] > 0  # of what the search ended with; a network alone has none
        assert 0 <= row["bits_matching"] <= BITS


def test_a_stopped_test_goes_on_with_the_answers_it_has(run, tmp_path, monkeypatch):
    kept = tmp_path / "answers"
    args = ["test", "--ckpt_path", str(run), *PAPER, *FEW, f"--model.init_args.decoder.cache={kept}"]
    decode, calls = InversionDecoder.decode, []

    def failing(decoder, images):
        calls.append(len(images))
        if len(calls) == 2:
            raise RuntimeError("power cut")
        return decode(decoder, images)

    monkeypatch.setattr(InversionDecoder, "decode", failing)
    with pytest.raises(RuntimeError, match="power cut"):
        evaluate.main([*args, "--run_dir", str(tmp_path / "a")])
    assert len(list(kept.iterdir())) == 1
    evaluate.main([*args, "--run_dir", str(tmp_path / "b")])
    assert calls == [6, 4, 4, 4, 4]  # marked; cut at the first negatives; then these and the two other kinds
    asked = len(calls)
    evaluate.main([*args, "--run_dir", str(tmp_path / "c")])
    assert len(calls) == asked  # nothing was left to decode
    monkeypatch.setattr(InversionDecoder, "decode", decode)
    fresh = [option for option in args if "decoder.cache" not in option]
    evaluate.main([*fresh, "--run_dir", str(tmp_path / "d")])
    contents = {(tmp_path / name / "metrics.json").read_bytes() for name in "bcd"}
    assert len(contents) == 1
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept.iterdir()} == {0o600}


@pytest.mark.parametrize(
    "change",
    [
        {"options": {"noise": "fixed(7)"}},
        {"decoder.noise": "fixed(7)"},
        {"decoder.options": {"starts": 3, "steps": 1}},
        {"decoder.loss": {"name": "spectrum"}},
        {"decoder.simulate": "jpeg_50"},
        {"key.sigma": 2.0},
        {"key.centred": True},
        {"key.shift": 0},
        {"key.fit_latents": 200},  # another mean and other axes
    ],
    ids=lambda change: next(iter(change)),
)
def test_cached_answers_of_other_settings_are_not_taken(stylegan2, tmp_path, change):
    settings = SMALL | {"decoder.name": "paper", "decoder.options": {"starts": 2, "steps": 1}}
    settings |= {"decoder.cache": str(tmp_path / "answers")}
    one, other = (LatentFingerprint(stylegan2, **grouped(settings | more)) for more in ({}, change))
    other.network.load_state_dict(one.network.state_dict())
    for module in (one, other):
        module._require_fingerprint()
    assert one.key_decoder().identity != other.key_decoder().identity


def test_cached_answers_of_another_generator_are_not_taken(stylegan2, tmp_path):
    settings = SMALL | {"decoder.name": "paper", "decoder.cache": str(tmp_path / "answers")}
    generators = (stylegan2, write_stylegan2(tmp_path / "other.safetensors", seed=1))
    one, other = (LatentFingerprint(generator, **grouped(settings)) for generator in generators)
    other.network.load_state_dict(one.network.state_dict())
    for module in (one, other):
        module._require_fingerprint()
    assert one.key_decoder().identity != other.key_decoder().identity
