from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from gloo_processes import in_processes
from small_extractors import noise, projection
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from lightning_modules.common.images import checked_uint8, to_uint8
from lightning_modules.metrics.fid import FrechetImageDistance

REAL, FAKE = noise(60, 1), noise(45, 2, brightness=0.2)


def metric_of(batches: list[tuple[Any, ...]], **kwargs: Any) -> FrechetImageDistance:
    metric = FrechetImageDistance(projection(), **kwargs)
    for batch in batches:
        metric.update(*batch)
    return metric


def by_scipy(real: np.ndarray, fake: np.ndarray) -> float:
    covariance1, covariance2 = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    shift = real.mean(0) - fake.mean(0)
    root = scipy.linalg.sqrtm(covariance1 @ covariance2)
    return float(shift @ shift + np.trace(covariance1 + covariance2 - 2 * np.real(root)))


@pytest.mark.parametrize("d", [6, 40])
def test_agrees_with_scipy_on_the_same_features(d: int):
    extractor = projection(d)
    metric = FrechetImageDistance(extractor)
    for part in REAL.split(7):
        metric.update(part, real=True)
    metric.update(FAKE, real=False)
    expected = by_scipy(extractor(REAL).double().numpy(), extractor(FAKE).double().numpy())
    value = metric.compute()
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(expected, rel=1e-6)


def test_agrees_with_torchmetrics_own():
    theirs = FrechetInceptionDistance(feature=projection())
    theirs.update(REAL, real=True)
    theirs.update(FAKE, real=False)
    value = metric_of([(REAL, True), (FAKE, False)]).compute()
    assert value.item() == pytest.approx(theirs.compute().item(), rel=1e-5)  # theirs is rounded to float32


def test_floats_are_rounded_to_what_a_file_holds():
    floats = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1
    assert torch.equal(checked_uint8(floats), to_uint8(floats))  # the function that makes the files
    as_files = metric_of([(REAL, True), (to_uint8(floats), False)]).compute()
    assert torch.equal(metric_of([(REAL, True), (floats, False)]).compute(), as_files)
    assert not torch.equal(metric_of([(REAL, True), ((floats.clamp(0, 1) * 255).byte(), False)]).compute(), as_files)


def test_name_says_which_features():
    first, second = FrechetImageDistance(projection(name="a")), FrechetImageDistance(projection(name="b"))
    assert (first.name, second.name) == ("fid_a", "fid_b")
    assert FrechetImageDistance("fashion_cnn").name == "fid_fashion_cnn"


def test_extractor_is_frozen_and_in_no_state_dict():
    holder = nn.Module()
    holder.metric = metric_of([(REAL, True), (FAKE, False)])
    value = holder.metric.compute()
    assert holder.state_dict() == {}
    assert list(holder.parameters()) == []
    assert not any(parameter.requires_grad for parameter in holder.metric.extractor.parameters())
    holder.train()
    holder.half()
    assert not holder.metric.extractor.network.norm.training
    assert next(holder.metric.extractor.parameters()).dtype == torch.float64  # as it was
    holder.metric.reset()
    for batch in ((REAL, True), (FAKE, False)):
        holder.metric.update(*batch)
    assert torch.equal(holder.metric.compute(), value)


def test_extractor_moves_with_the_metric():
    metric = FrechetImageDistance(projection()).to("meta")
    assert {parameter.device.type for parameter in metric.extractor.parameters()} == {"meta"}
    assert metric.real_features_sum.device.type == "meta"


def test_copies_and_pickles_are_independent():
    metric = metric_of([(REAL, True), (FAKE, False)])
    value = metric.compute()
    for other in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        assert other.extractor is not metric.extractor
        other._computed = None
        assert torch.equal(other.compute(), value)


def test_reals_can_be_kept():
    metric = metric_of([(REAL, True, torch.arange(60)), (FAKE, False)], reset_real_features=False)
    value = metric.compute()
    metric.reset()
    metric.update(FAKE, real=False)
    assert torch.equal(metric.compute(), value)
    metric.update(REAL[:3], real=True, index=torch.arange(3))
    with pytest.raises(ValueError, match="3 real images were counted more than once"):
        metric.compute()


def test_estimate_says_n_and_d():
    metric = metric_of([(REAL, True), (FAKE, False)])
    estimate = metric.estimate()
    assert estimate.value == metric.compute().item()
    assert (estimate.n, estimate.details) == (45, {"n_real": 60, "n_fake": 45, "d": 6})


# --- numbers of samples


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="found 0 fake images, expected at least 2"):
        metric_of([(REAL, True)]).compute()
    with pytest.raises(ValueError, match="found 45 fake images, expected at least 50"):
        metric_of([(REAL, True), (FAKE, False)], min_samples=50).compute()
    with pytest.raises(ValueError, match="at least 2"):
        FrechetImageDistance(projection(), min_samples=1)


def test_fewer_images_than_dimensions_warn():
    few = [(REAL, True), (FAKE[:6], False)]
    with pytest.warns(UserWarning, match="fid_projection: 6 fake images for 6 dimensions; their covariance is sing"):
        value = metric_of(few).compute()
    rows = [projection()(images).double() for images in (REAL, FAKE[:6])]
    covariance = [np.cov(row.numpy(), rowvar=False) for row in rows]
    cross = np.sqrt(np.linalg.eigvals(covariance[0] @ covariance[1]).real.clip(0)).sum()
    shift = (rows[0].mean(0) - rows[1].mean(0)).square().sum().item()
    assert value.item() == pytest.approx(shift + np.trace(covariance[0] + covariance[1]) - 2 * cross, rel=1e-6)


def test_repeated_and_partly_indexed_images_are_refused():
    metric = metric_of([(REAL, True), (FAKE, False, torch.arange(45) % 44)])
    with pytest.raises(ValueError, match=r"1 fake images were counted more than once \(index \[0\]"):
        metric.compute()
    metric = metric_of([(REAL, True), (FAKE, False, torch.arange(45)), (FAKE, False)])
    with pytest.raises(ValueError, match="45 of 90 fake images came with an index"):
        metric.compute()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(4, 1, 8, 8), r"\(n, 3, H, W\)"),
        (torch.zeros(4, 3, 8, 8, dtype=torch.int64), "float in"),
        (torch.full((4, 3, 8, 8), torch.nan), "NaN"),
        (torch.full((4, 3, 8, 8), 255.0), "reach 255"),
    ],
)
def test_unfit_images_are_refused(images: torch.Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        FrechetImageDistance(projection()).update(images, real=True)
    with pytest.raises(ValueError, match="index"):
        FrechetImageDistance(projection()).update(REAL, real=True, index=torch.arange(3))


# --- several processes


def _uneven(rank: int, world: int) -> dict[str, Any]:
    real, fake = REAL.split([50, 10])[rank], FAKE.split([1, 44])[rank]
    start_real, start_fake = (0, 0) if rank == 0 else (50, 1)
    metric = metric_of(
        [
            (real, True, torch.arange(start_real, start_real + len(real))),
            (fake, False, torch.arange(start_fake, start_fake + len(fake))),
        ]
    )
    estimate = metric.estimate()
    return {"value": estimate.value, "n": estimate.n, **estimate.details}


def _empty_rank(rank: int, world: int) -> float:
    batches = [(REAL, True, torch.arange(60)), (FAKE, False, torch.arange(45))]
    return metric_of(batches if rank == 1 else []).compute().item()


def _repeated(rank: int, world: int) -> str:
    with pytest.raises(ValueError, match="60 real images were counted more than once") as caught:
        metric_of([(REAL, True, torch.arange(60)), (FAKE, False)]).compute()
    return str(caught.value)


def test_uneven_processes_give_the_value_of_one(tmp_path: Path):
    expected = metric_of([(REAL, True), (FAKE, False)]).compute().item()
    for found in in_processes(_uneven, 2, tmp_path):
        assert found.pop("value") == pytest.approx(expected, rel=1e-12)
        assert found == {"n": 45, "n_real": 60, "n_fake": 45, "d": 6}


def test_a_process_without_images_is_fine(tmp_path: Path):
    expected = metric_of([(REAL, True), (FAKE, False)]).compute().item()
    assert in_processes(_empty_rank, 3, tmp_path) == [pytest.approx(expected, rel=1e-12)] * 3


def test_images_seen_by_two_processes_are_an_error_for_both(tmp_path: Path):
    first, second = in_processes(_repeated, 2, tmp_path)
    assert first == second
