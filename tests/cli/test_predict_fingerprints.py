"""`evaluate.py predict` with a fingerprint's training: images in, a verdict an image out."""

from __future__ import annotations

import json
import shutil
import stat
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from png_files import save_png

import evaluate
import train
from datamodules.images.image_io import decode_image
from datamodules.images.pixel_path import PixelPath
from datamodules.images.problems import GMDataError
from lightning_modules.cli.errors import run_command
from lightning_modules.cli.unmarked_bank import leave_bank
from lightning_modules.common.content_ids import content_id, content_id_to_int
from lightning_modules.common.shipped import TRAINED
from lightning_modules.evaluation.blocks import Evaluation, EvaluationError, EvaluationFolder
from lightning_modules.fingerprints.fingerprint import FingerprintError
from lightning_modules.fingerprints.unmarked_bank import FILE_NAME, read_bank, write_bank
from lightning_modules.fingerprints.users.key_registry import KeyRegistry, read_registry, write_registry
from lightning_modules.fingerprints.users.keys import key_from_text, key_to_text
from lightning_modules.generators import load_generator
from lightning_modules.generators.checkpoints.own_file import write_generator
from lightning_modules.generators.checkpoints.stored import StoredGenerator
from lightning_modules.generators.stylegan2 import StyleGAN2Generator
from lightning_modules.latent_fingerprint import LatentFingerprint

BITS = 10
RATE = 0.01  # of keys of 10 bits and one user, all bits or all but none must match


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A hardly trained fingerprint of a tiny generator: folder with run/, images/ (three) and no registry yet."""
    folder = tmp_path_factory.mktemp("fingerprint")
    torch.manual_seed(0)
    generator = StyleGAN2Generator(16, 12, 12, 2, [8, 8, 8])
    write_generator(
        StoredGenerator("stylegan2", generator.arguments, generator.state_dict(), {"format": "test"}),
        folder / "g.safetensors",
    )
    key = {"bits": BITS, "shift": -BITS, "sigma": 3.0, "fit_latents": 300}
    training = {"backbone": "test_resnet", "stem": "small", "attack": "identity", "unmarked_images": 0}
    module = {"generator": str(folder / "g.safetensors"), "key": key, "training": training}
    config = {
        "seed_everything": 0,
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_progress_bar": False},
        "model": {"class_path": "lightning_modules.latent_fingerprint.LatentFingerprint", "init_args": module},
        "data": {
            "class_path": "datamodules.SampleNumbersDataModule",
            "init_args": {"train_images": 32, "val_images": 8, "batch_size": 2},
        },
        "test_after_fit": False,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    train.main(["--config", str(folder / "config.yaml"), "--run_dir", str(folder / "run")])
    (folder / "images").mkdir()
    made = load_generator(str(folder / "g.safetensors"))
    for index, image in enumerate(made.synthesize(made.sample_latents(3, seed=5)).clamp(0, 1)):
        save_png(folder / "images" / f"{index}.png", (image * 255).round().byte().permute(1, 2, 0).numpy())
    return folder


def predict(run, *options, registry=None, images=None):
    """Rows of the command, and its file."""
    chosen = [] if registry is None else ["--registry", str(registry)]
    out = evaluate.main(
        ["predict", "--ckpt_path", str(run / "run"), "--images", str(images or run / "images"), *chosen, *options]
    )
    return [json.loads(line) for line in out.read_text().splitlines()], out


def write_users(path, **keys):
    registry = KeyRegistry(BITS)
    for name, key in keys.items():
        registry.add(name, key_to_text(key))
    write_registry(registry, path)
    return path


def decoded(run, tmp_path):
    """What the module reads from the first image."""
    users = write_users(tmp_path / "anybody.json", anybody=torch.arange(BITS) % 2 == 0)
    (row, *_), out = predict(run, "--show_bits", "true", "--run_dir", str(tmp_path / "bits"), registry=users)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    return key_from_text(row["decoded_bits"], BITS)


def test_the_holder_of_the_decoded_key_is_named_and_others_are_not(run, tmp_path, capsys):
    bits = decoded(run, tmp_path)
    other = bits.clone()
    other[: BITS // 2] = ~other[: BITS // 2]
    users = write_users(tmp_path / "users.json", holder=bits, other=other)
    capsys.readouterr()
    rows, out = predict(
        run, "--combine", "true", "--false_positive_rate", str(RATE), "--out", str(tmp_path / "named.jsonl"),
        "--run_dir", str(tmp_path / "p"), registry=users,
    )  # fmt: skip
    assert out == tmp_path / "named.jsonl"
    assert [row.get("file", "").rpartition("/")[2] for row in rows] == ["0.png", "1.png", "2.png", ""]
    first = rows[0]
    assert (first["verdict"], first["bits_matching"], first["bits"]) == ("holder", BITS, BITS)
    assert first["p_value"] == 0.5**BITS
    assert first["family_p_value"] == 2 * 0.5**BITS
    assert rows[3]["files"] == 3
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == str(out)
    named = sum(row["verdict"] is not None for row in rows[:3])
    assert f"3 files: {named} attributed, {3 - named} without a match, 0 abstained" in "\n".join(told)
    assert f"a user is named by a p-value of {RATE / 2:.2g} or less" in "\n".join(told)
    assert key_to_text(bits) not in out.read_text() + "\n".join(told)
    stranger = write_users(tmp_path / "stranger.json", stranger=other)
    rows, _ = predict(
        run, "--false_positive_rate", str(RATE), "--run_dir", str(tmp_path / "q"), registry=stranger,
        images=run / "images" / "0.png",
    )  # fmt: skip
    assert [(row["verdict"], row["best_user"], row["bits_matching"]) for row in rows] == [(None, "stranger", BITS // 2)]


def test_one_image_alone_decodes_as_among_others(run, tmp_path):
    users = write_users(tmp_path / "users.json", someone=torch.arange(BITS) % 3 == 0)
    together, _ = predict(run, "--run_dir", str(tmp_path / "a"), registry=users)
    alone, _ = predict(run, "--run_dir", str(tmp_path / "b"), registry=users, images=run / "images" / "2.png")
    assert alone[0]["content_id"] == together[2]["content_id"]
    assert alone[0]["bits_matching"] == together[2]["bits_matching"]
    assert alone[0]["confidence"] == pytest.approx(together[2]["confidence"], rel=1e-4)


@pytest.mark.parametrize("needed", [True, False])
def test_a_module_that_needs_gradients_is_not_run_in_inference_mode(run, tmp_path, monkeypatch, needed):
    users = write_users(tmp_path / "users.json", someone=torch.arange(BITS) % 3 == 0)
    seen = []

    def look(module, batch, batch_idx):
        seen.append(torch.is_inference_mode_enabled())
        n = len(batch["image"])
        columns = {name: batch[name] for name in ("index", "path", "content_id")}
        return columns | {"logits": torch.ones(n, BITS), "loss": torch.zeros(n)}

    monkeypatch.setattr(LatentFingerprint, "predict_step", look, raising=False)
    monkeypatch.setattr(LatentFingerprint, "needs_gradients", needed, raising=False)
    rows, _ = predict(run, "--run_dir", str(tmp_path / "r"), registry=users)
    assert [row["loss"] for row in rows] == [0.0] * 3
    assert seen == [not needed]


def test_a_rate_that_no_key_can_meet_is_a_warning(run, tmp_path, capsys):
    users = write_users(tmp_path / "users.json", someone=torch.arange(BITS) % 3 == 0)
    rows, _ = predict(run, "--run_dir", str(tmp_path / "a"), registry=users)
    assert [row["verdict"] for row in rows] == [None] * 3
    told = capsys.readouterr()
    assert "warning: found keys of 10 bits, 1 user and a false-positive rate of 1e-06" in told.err
    assert "since keys of 10 bits can name nobody" in told.err
    assert "keys of 10 bits can name nobody at this rate)" in told.out


@pytest.mark.parametrize("mistake", ["no registry", "another length"])
def test_a_mistake_is_told_before_a_folder_is_made_or_a_network_built(run, tmp_path, mistake):
    longer = KeyRegistry(BITS + 1)
    longer.create("someone")
    write_registry(longer, tmp_path / "longer.json")
    registry = None if mistake == "no registry" else tmp_path / "longer.json"
    message = "found no --registry" if registry is None else "found keys of 11 bits, expected 10"
    with pytest.raises(SystemExit, match=f"evaluate.py predict: .*{message}"):
        predict(run, "--run_dir", str(tmp_path / "r"), "--model.init_args.generator", "nowhere", registry=registry)
    assert not (tmp_path / "r").exists()


def test_images_of_another_size_are_brought_to_the_generators_and_say_so(run, tmp_path, capsys):
    users = write_users(tmp_path / "users.json", someone=torch.arange(BITS) % 3 == 0)
    (tmp_path / "mixed").mkdir()
    first, second, _ = sorted((run / "images").glob("*.png"))
    Image.open(first).resize((48, 48), Image.Resampling.BICUBIC).save(tmp_path / "mixed" / "a.png")
    shutil.copy(second, tmp_path / "mixed" / "b.png")
    rows, _ = predict(run, "--run_dir", str(tmp_path / "r"), registry=users, images=tmp_path / "mixed")
    assert [row.get("resized_from") for row in rows] == ["48x48", None]
    assert "1 of another size are cut free of flat bars and resized to (16, 16): 48x48 (1)" in capsys.readouterr().err
    assert all(row["bits"] == BITS for row in rows)


def test_images_of_another_size_go_the_way_that_is_asked_for(run, tmp_path):
    users = write_users(tmp_path / "users.json", someone=torch.arange(BITS) % 3 == 0)
    (tmp_path / "large").mkdir()
    for file in sorted((run / "images").glob("*.png")):
        Image.open(file).resize((32, 32), Image.Resampling.NEAREST).save(tmp_path / "large" / file.name)
    with pytest.raises(GMDataError, match="or set `--center_crop` and/or `--resize`") as caught:
        predict(run, "--center_crop", "20", "--run_dir", str(tmp_path / "r"), registry=users, images=tmp_path / "large")
    assert "0.png: 20x20 (width x height), expected 16x16" in str(caught.value)
    options = ["--resize", "16", "--reencode", "png"]
    rows, _ = predict(run, "--run_dir", str(tmp_path / "s"), *options, registry=users, images=tmp_path / "large")
    path = PixelPath(resize=16)
    scaled = [content_id(path(decode_image(file))) for file in sorted((tmp_path / "large").iterdir())]
    assert [row["content_id"] for row in rows] == [f"{content_id_to_int(each):016x}" for each in scaled]
    rows, _ = predict(
        run, "--run_dir", str(tmp_path / "u"), "--center_crop", "16", registry=users, images=tmp_path / "large"
    )
    assert len(rows) == 3
    again, _ = predict(
        run, "--data.init_args.resize=16", "--data.init_args.reencode", "png", "--run_dir", str(tmp_path / "v"),
        registry=users, images=tmp_path / "large",
    )  # fmt: skip
    assert [row["content_id"] for row in again] == [f"{content_id_to_int(each):016x}" for each in scaled]


def test_images_that_cannot_be_used_have_rows_and_no_part_in_the_verdict_over_all(run, tmp_path, capsys):
    users = write_users(tmp_path / "users.json", someone=torch.arange(BITS) % 3 == 0)
    shutil.copytree(run / "images", tmp_path / "images")
    (tmp_path / "images" / "1a.png").write_bytes(b"x")
    together, _ = predict(run, "--combine", "true", "--run_dir", str(tmp_path / "a"), registry=users)
    rows, _ = predict(
        run, "--combine", "true", "--skip_unreadable", "true", "--run_dir", str(tmp_path / "b"), registry=users,
        images=tmp_path / "images",
    )  # fmt: skip
    assert [row.get("file", "").rpartition("/")[2] for row in rows] == ["0.png", "1.png", "1a.png", "2.png", ""]
    assert rows[2]["verdict"] is None
    assert rows[2]["reason"].endswith("1 byte, cannot identify image format")
    assert rows[4] == together[3]
    assert "1 file more could not be used" in capsys.readouterr().out


def test_what_was_found_before_is_not_overwritten(run, tmp_path):
    users = write_users(tmp_path / "users.json", someone=torch.arange(BITS) % 3 == 0)
    earlier = tmp_path / "verdicts.jsonl"
    earlier.write_text("evidence\n")
    with pytest.raises(SystemExit, match=r"found .*verdicts\.jsonl already, expected a new file"):
        predict(run, "--out", str(earlier), "--run_dir", str(tmp_path / "r"), registry=users)
    assert earlier.read_text() == "evidence\n"
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "option", ["--model.init_args.decoder.name=amortized", "--model.init_args.decoder.options={batc: 1}"]
)
def test_a_mistyped_decoder_or_option_ends_in_one_line(run, tmp_path, option, capsys):
    users = write_users(tmp_path / "users.json", someone=torch.arange(BITS) % 3 == 0)
    with pytest.raises(SystemExit) as left:
        run_command(lambda: predict(run, option, "--run_dir", str(tmp_path / "r"), registry=users))
    assert left.value.code == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: found ")
    assert "did you mean " in told


def test_keys_are_read_from_python_as_the_command_reads_them(run, tmp_path):
    users = write_users(tmp_path / "users.json", someone=torch.arange(BITS) % 3 == 0)
    rows, _ = predict(run, "--run_dir", str(tmp_path / "r"), registry=users)
    checkpoint = run / "run" / "checkpoints" / "last.ckpt"
    module = LatentFingerprint.load_from_checkpoint(checkpoint, decoder={"name": "amortised"})
    files = sorted((run / "images").glob("*.png"))
    images = torch.stack([torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255 for file in files])
    bits = module.key_decoder().decode(images).bits
    keys = read_registry(users, module.fingerprint).keys
    assert [row["bits_matching"] for row in rows] == (bits == keys).sum(dim=1).tolist()


def test_a_config_of_another_module_is_refused(run, tmp_path):
    users = write_users(tmp_path / "users.json", someone=torch.arange(BITS) % 3 == 0)
    with pytest.raises(SystemExit, match="found a config of Attributor with the checkpoint of a fingerprint"):
        predict(run, "--config", "configs/quickstart.yaml", "--run_dir", str(tmp_path / "r"), registry=users)


def test_a_bank_is_made_used_and_not_taken_for_that_of_another_network(run, tmp_path, capsys):
    shutil.copytree(run / "run", tmp_path / "run")
    assert not (tmp_path / "run" / FILE_NAME).exists()  # its config asks for none
    evaluate.main(["users", "bank", str(tmp_path / "run"), "--images", "40"])
    file = tmp_path / "run" / FILE_NAME
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == str(file)
    assert "of the generator's own" in told[-2]
    assert read_bank(file).bits == BITS
    users = write_users(tmp_path / "users.json", someone=torch.arange(BITS) % 3 == 0)
    shutil.copytree(run / "images", tmp_path / "images")
    save_png(tmp_path / "images" / "flat.png", np.full((16, 16, 3), 90, dtype=np.uint8))
    rows, _ = predict(tmp_path, "--run_dir", str(tmp_path / "a"), registry=users)
    assert ["reason" in row for row in rows] == [False, False, False, True]
    assert rows[3]["reason"] == "abstained: no content: found 1 colour in the image"
    write_bank(replace(read_bank(file), decoder="another", farthest_alpha=0.0), file)
    with pytest.warns(UserWarning, match="found the answers of another decoder than the checkpoint's"):
        rows, _ = predict(tmp_path, "--run_dir", str(tmp_path / "b"), registry=users)
    assert ["reason" in row for row in rows] == [False, False, False, True]
    with pytest.raises(SystemExit):
        evaluate.main(["users", "bank", str(tmp_path / "run"), "--images", "39"])
    assert "found a bank of 40 of the generator's own images, expected at least as many" in capsys.readouterr().err
    write_bank(replace(read_bank(file), fingerprint="another"), file)
    with pytest.raises(FingerprintError, match="found a bank for the fingerprint another"):
        predict(tmp_path, "--run_dir", str(tmp_path / "c"), registry=users)


def test_a_training_leaves_its_bank_and_tells_where_it_cannot(run, tmp_path, capsys):
    again = ["--config", str(run / "config.yaml"), "--run_dir", str(tmp_path / "run")]
    train.main([*again, "--model.init_args.training.unmarked_images", "8"])
    file = tmp_path / "run" / FILE_NAME
    assert read_bank(file).own_images == 8
    shutil.copytree(run / "images", tmp_path / "images")
    users = write_users(tmp_path / "users.json", someone=torch.arange(BITS) % 3 == 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict(tmp_path, "--run_dir", str(tmp_path / "a"), registry=users)
    with pytest.warns(UserWarning, match="found no bank of decoded images without key beside the checkpoint"):
        predict(run, "--run_dir", str(tmp_path / "b"), registry=users)
    file.unlink()
    file.mkdir()
    capsys.readouterr()
    leave_bank(tmp_path / "run", 8, torch.device("cpu"))
    assert "warning: found no way to make it" in capsys.readouterr().err
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    saved["hyper_parameters"]["decoder"]["name"] = "inversion"
    torch.save(saved, tmp_path / "run" / "checkpoints" / "last.ckpt")
    leave_bank(tmp_path / "run", 8, torch.device("cpu"))
    assert not capsys.readouterr().err


def test_other_settings_are_told_to_take_another_file(run, tmp_path):
    users = write_users(tmp_path / "users.json", someone=torch.arange(BITS) % 3 == 0)
    out = tmp_path / "named.jsonl"
    folder = tmp_path / "named.jsonl.blocks"
    folder.mkdir()
    EvaluationFolder.begin(folder, Evaluation("prediction", {"of": "others"}, 4, {"predict": 4}, [], {}))
    with pytest.raises(EvaluationError, match="name another file with --out"):
        predict(run, "--out", str(out), "--run_dir", str(tmp_path / "r"), registry=users)


@pytest.mark.parametrize("mistake", ["nowhere", "untrained", "images"])
def test_a_bank_of_no_trained_decoder_is_refused(run, tmp_path, mistake, capsys):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    saved = torch.load(run / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    if mistake == "untrained":
        saved["hyper_parameters"]["decoder"]["name"] = "inversion"
    torch.save(saved, tmp_path / "run" / "checkpoints" / "last.ckpt")
    chosen = {"nowhere": [str(tmp_path / "none")], "images": [str(tmp_path / "run"), "--images", "2"]}
    with pytest.raises(SystemExit) as left:
        evaluate.main(["users", "bank", *chosen.get(mistake, [str(tmp_path / "run")])])
    assert left.value.code == 2
    expected = {"nowhere": "no file", "untrained": "found the decoder inversion", "images": "expected at least 4"}
    assert expected[mistake] in capsys.readouterr().err
    assert not (tmp_path / "run" / FILE_NAME).exists()


def test_who_holds_what_a_flat_grey_decodes_to_is_not_named(tmp_path):
    """The shipped StyleGAN2: 256 flat greys decode to 26 keys."""
    home = TRAINED / "stylegan2"
    bank = read_bank(home / FILE_NAME)
    key = bank.log_odds[127] > 0
    registry = KeyRegistry(32, {}, bank.fingerprint, "gan-stylegan2")
    registry.add("eve", key_to_text(key))
    write_registry(registry, tmp_path / "users.json")
    (tmp_path / "images").mkdir()
    for level in (125, 127):
        save_png(tmp_path / "images" / f"{level}.png", np.full((32, 32, 3), level, dtype=np.uint8))
    chosen = ["--ckpt_path", str(home), "--registry", str(tmp_path / "users.json"), "--run_dir", str(tmp_path / "r")]
    out = evaluate.main(["predict", "--images", str(tmp_path / "images"), *chosen])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(row["family_p_value"] < 1e-8 for row in rows)
    assert [(row["verdict"], row["best_user"]) for row in rows] == [(None, "eve")] * 2
    assert all(row["reason"].startswith("abstained: no content") for row in rows)
