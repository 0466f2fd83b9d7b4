"""GMDataModule's contract: batches, orders, the manifold, and several processes."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from gm_folders import pixels, write_gm, write_source
from torch import nn

from datamodules.gm import GMDataModule
from datamodules.images.problems import GMDataError
from lightning_modules.common.content_ids import content_id, content_id_to_int, overlap


@pytest.fixture
def root(tmp_path) -> Path:
    return write_gm(tmp_path / "set")


def number_of(path: str) -> tuple[str, int]:
    return Path(path).parent.name, int(Path(path).stem)


def test_batches_hold_what_the_files_hold(root):
    datamodule = GMDataModule(root=str(root), batch_size=5)
    datamodule.setup()
    assert datamodule.sources == ["gan-a", "real-x", "vae-b"]
    assert datamodule.image_size == (16, 16)
    count = 0
    for split in ("val", "test"):
        indices = []
        for batch in getattr(datamodule, f"{split}_dataloader")():
            size = len(batch["path"])
            block = ["block", "part"] if split == "test" else []
            assert sorted(batch) == sorted(["content_id", "image", "index", "label", "path", *block])
            assert (batch["image"].dtype, batch["image"].shape) == (torch.float32, (size, 3, 16, 16))
            assert all(batch[name].dtype == torch.int64 for name in ("label", "content_id", "index"))
            for i, path in enumerate(batch["path"]):
                source, number = number_of(path)
                expected = pixels(source, number)
                assert torch.equal(batch["image"][i], torch.from_numpy(expected).permute(2, 0, 1) / 255)
                assert datamodule.sources[batch["label"][i]] == source
                assert batch["content_id"][i] == content_id_to_int(content_id(expected))
            indices += batch["index"].tolist()
            count += size
        assert indices == list(range(len(datamodule.images(split))))
    assert count == 3 * (2 + 4)


def test_training_order_depends_on_seed_and_epoch_not_on_workers(root, monkeypatch):
    def order(epoch=0, **arguments):
        datamodule = GMDataModule(root=str(root), batch_size=8, **arguments)
        datamodule.setup()
        loader = datamodule.train_dataloader()
        loader.sampler.set_epoch(epoch)
        return [path for batch in loader for path in batch["path"]]

    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    first = order()
    assert len(first) == len(set(first)) == 42 // 8 * 8
    assert {number_of(path)[0] for path in first[:16]} == {"gan-a", "vae-b", "real-x"}
    assert order(num_workers=2) == first
    assert order(epoch=1) != first
    assert order(shuffle_seed=1) != first
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    assert order() == order(shuffle_seed=1)
    assert sorted(GMDataModule(root=str(root), shuffle_seed=5).hparams) == sorted(GMDataModule(root=str(root)).hparams)


def test_a_small_training_set_still_makes_a_batch(root):
    datamodule = GMDataModule(root=str(root), batch_size=64)
    datamodule.setup()
    (batch,) = datamodule.train_dataloader()
    assert len(batch["path"]) == 42


def test_manifold_images(root):
    datamodule = GMDataModule(root=str(root))
    datamodule.setup()
    manifold = datamodule.manifold_images()
    rows = datamodule.plan.rows.query("split == 'manifold'")
    assert len(manifold) == len(rows) == 20
    for i in (0, 19):
        expected = pixels(*number_of(rows["path"].iloc[i]))
        item = manifold[i]
        assert sorted(item) == ["content_id", "image"]
        assert item["image"].dtype == torch.uint8
        assert torch.equal(item["image"], torch.from_numpy(expected).permute(2, 0, 1))
        assert item["content_id"] == content_id_to_int(content_id(expected)) == int(manifold.content_ids[i])


def test_content_ids_are_of_the_pixels_that_are_scored(root):
    datamodule = GMDataModule(root=str(root), reencode="jpeg_95", center_crop=12)
    datamodule.setup()
    item = datamodule.images("test")[0]
    scored = item["image"].permute(1, 2, 0).numpy()
    assert item["content_id"] == content_id_to_int(content_id(scored))
    assert item["image"].shape == (3, 12, 12)
    assert datamodule.image_size == (12, 12)


def test_a_file_changed_after_indexing_is_noticed(root):
    datamodule = GMDataModule(root=str(root))
    datamodule.setup()
    images = datamodule.images("train")
    path = Path(images[0]["path"])
    write_source(root, path.parent.name, 1, start=int(path.stem), key="changed")
    with pytest.raises(RuntimeError, match="changed since the data set was indexed"):
        images[0]


def test_source_info_and_use_before_setup(root):
    (root / "sources.yaml").write_text("sources:\n  gan-a: {upsampling: nearest}\n")
    datamodule = GMDataModule(root=str(root))
    with pytest.raises(RuntimeError, match="call setup"):
        _ = datamodule.sources
    datamodule.setup()
    assert datamodule.source_info == {"gan-a": {"upsampling": "nearest"}}


def test_a_split_of_fraction_zero(root):
    datamodule = GMDataModule(root=str(root), train_fraction=0.0, val_fraction=0.0, test_fraction=1.0)
    datamodule.setup()
    assert len(datamodule.images("test")) == 60
    with pytest.raises(ValueError, match="give val_fraction a share"):
        datamodule.val_dataloader()


def has_images(batch):
    return batch["part"] != ""  # other processes have one block more


@pytest.mark.parametrize("world", [1, 3, 8])
def test_evaluation_is_the_same_on_any_number_of_processes(root, world):
    seen = []
    GMDataModule(root=str(root)).prepare_data()
    for rank in range(world):
        datamodule = GMDataModule(root=str(root), block_size=3)
        datamodule.trainer = SimpleNamespace(global_rank=rank, world_size=world)
        datamodule.setup("test")
        for batch in filter(has_images, datamodule.test_dataloader()):
            seen += list(zip(batch["index"].tolist(), batch["content_id"].tolist(), batch["path"], strict=True))
    alone = GMDataModule(root=str(root))
    alone.setup()
    images = alone.images("test")
    assert sorted(seen) == [(i, images[i]["content_id"], images[i]["path"]) for i in range(len(images))]


def test_other_ranks_read_the_plan_and_never_index(root, monkeypatch):
    waiting = GMDataModule(root=str(root))
    waiting.trainer = SimpleNamespace(global_rank=1, world_size=2)
    with pytest.raises(FileNotFoundError, match=r"no plan of the data set.*rank 0"):
        waiting.setup("fit")
    GMDataModule(root=str(root)).prepare_data()
    monkeypatch.setattr("datamodules.gm.make_plan", None)
    waiting.setup("fit")
    assert waiting.sources == ["gan-a", "real-x", "vae-b"]


class Recorder(pl.LightningModule):
    """Writes what each rank saw."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder, self.layer, self.seen = folder, nn.Linear(1, 1), []

    def training_step(self, batch):
        self.note("train", batch)
        return self.layer(batch["image"].mean(dim=(1, 2, 3))[:, None]).mean()

    def test_step(self, batch):
        if has_images(batch):
            self.note("test", batch)

    def note(self, stage, batch):
        lines = "".join(f"{stage} {self.current_epoch} {path}\n" for path in batch["path"])
        with (Path(self.folder) / f"rank{self.global_rank}.txt").open("a") as file:
            file.write(lines)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer_of_two(tmp_path, **arguments):
    return pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        **arguments,
    )


def test_two_processes_of_lightning(root, tmp_path, monkeypatch):
    monkeypatch.setenv("MASTER_PORT", str(20000 + os.getpid() % 20000))
    datamodule = GMDataModule(root=str(root), batch_size=4)
    model = Recorder(str(tmp_path))
    trainer_of_two(tmp_path, max_epochs=2, limit_val_batches=0).fit(model, datamodule=datamodule)
    monkeypatch.setenv("MASTER_PORT", str(20001 + os.getpid() % 20000))
    trainer_of_two(tmp_path).test(model, datamodule=GMDataModule(root=str(root), block_size=4), verbose=False)
    ranks = [(tmp_path / f"rank{rank}.txt").read_text().splitlines() for rank in range(2)]
    alone = GMDataModule(root=str(root))
    alone.setup()
    tested = [line.split()[-1] for lines in ranks for line in lines if line.startswith("test")]
    assert sorted(tested) == sorted(item["path"] for item in alone.images("test"))
    for epoch in range(2):
        trained = [line for lines in ranks for line in lines if line.startswith(f"train {epoch}")]
        assert len(trained) == len(set(trained)) == 2 * (21 // 4 * 4)
    orders = [[line.split()[-1] for line in ranks[0] if line.startswith(f"train {epoch}")] for epoch in range(2)]
    assert orders[0] != orders[1]


def test_two_processes_stop_at_bad_data(root, tmp_path, monkeypatch):
    monkeypatch.setenv("MASTER_PORT", str(20002 + os.getpid() % 20000))
    GMDataModule(root=str(root)).prepare_data()  # leaves a plan that must not be used
    (root / "gan-a" / "bad.png").write_bytes(b"x")
    with pytest.raises(Exception, match=r"gan-a/bad\.png: 1 byte"):  # whichever rank fails first
        trainer_of_two(tmp_path).test(Recorder(str(tmp_path)), datamodule=GMDataModule(root=str(root)), verbose=False)
    assert not list(tmp_path.glob("rank*.txt"))
    waiting = GMDataModule(root=str(root))
    waiting.trainer = SimpleNamespace(global_rank=1, world_size=2)
    with pytest.raises(GMDataError, match=r"gan-a/bad\.png: 1 byte"):
        waiting.setup("test")
    (root / "gan-a" / "bad.png").unlink()
    GMDataModule(root=str(root)).prepare_data()
    waiting.setup("test")


def test_content_ids_of_a_split_are_those_of_its_batches_without_opening_a_file(tmp_path, monkeypatch):
    write_gm(tmp_path)
    data = GMDataModule(root=str(tmp_path), center_crop=12, batch_size=7)
    data.setup()
    seen = {
        "train": torch.cat([batch["content_id"] for batch in data.train_dataloader()]),
        "test": torch.cat([batch["content_id"] for batch in data.test_dataloader()]),
        "manifold": data.manifold_images().content_ids,
    }
    rows = data.plan.rows
    monkeypatch.setattr("datamodules.images.image_io.Image", None)
    for split, found in seen.items():
        stored = data.plan.content_ids(split)
        assert set(found.tolist()) <= set(stored.tolist())  # an incomplete training batch is left out
        assert len(stored) == (rows["split"] == split).sum()
        assert torch.equal(stored, stored.sort().values)
    assert overlap(data.plan.content_ids("train"), data.plan.content_ids("test")) == 0
    other = GMDataModule(root=str(tmp_path), seed=1, cache_dir=str(tmp_path / "cache"))
    monkeypatch.undo()
    other.setup()
    shared = overlap(data.plan.content_ids("train", "content"), other.plan.content_ids("test", "content"))
    assert shared > 0, "another seed tests on training images"
    paths = set(rows.loc[rows["split"] == "train", "path"]) & set(
        other.plan.rows.loc[other.plan.rows["split"] == "test", "path"]
    )
    assert shared == len(paths)
    assert overlap(data.plan.content_ids("train"), other.plan.content_ids("test")) == 0  # other pixels: not cropped
