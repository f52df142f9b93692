import json
import os
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import default_collate

from model.encoder import build_encoder
from model.export import load_encoder
from ops.bench.end_to_end import EndToEndConfig, contestants, learnt, learnt_directory, lines, scored, timed
from ops.bench.measure import Measurement, Outcome
from ops.bench.memory import memory_bytes
from ops.bench.training import learn, timed_updates
from ops.bench.training_recipes import recipe_of
from train.arguments import parse
from train.errors import RunError

FLAGS = "--encoder.name=resnet18 --encoder.stem=cifar --encoder.width=0.0625 --head.dim=8 --global_batch=16"
MORE = "--views.size=32 --views.blur_probability=0 --schedule.epochs=2 --schedule.warmup_epochs=0 --device=cpu"
OURS = "--precision=bf16 --learn=true"
MACHINE = {"cpu": "a", "cores": 1, "date": ""}


def config_of(shards: Path, work: Path, *flags: str) -> EndToEndConfig:
    where = [f"--data.dir={shards}", f"--work={work}", "--workers=0"]
    return parse(EndToEndConfig, [*FLAGS.split(), *MORE.split(), *OURS.split(), *where, *flags])


def test_peers_run_in_their_precision_and_in_ours(shards: Path, tmp_path: Path) -> None:
    everyone = contestants(config_of(shards, tmp_path, "--only=lightly,torchvision"))
    assert [one.name for one in everyone] == [
        "ours",
        "bound: ours on views in memory",
        "lightly, fp32",
        "torchvision, fp32",
        "lightly, bf16",
        "torchvision, bf16",
    ]
    files = sorted(Path(everyone[-1].options["files"]).iterdir())
    assert len(files) == 64
    assert len({path.read_bytes() for path in files}) == 64


def test_precision_is_a_word_to_choose_by(shards: Path, tmp_path: Path) -> None:
    names = [one.name for one in contestants(config_of(shards, tmp_path, "--only=fp32"))]
    assert names[:3] == ["ours", "bound: ours on views in memory", "ours, fp32"]
    assert len(names) == 7
    assert not any("bf16" in name for name in names)


def test_what_is_learnt_is_found_again_however_it_is_compared(shards: Path, tmp_path: Path) -> None:
    def directory(*flags: str) -> Path:
        return learnt_directory(contestants(config_of(shards, tmp_path, *flags))[0], str(tmp_path), "fingerprint")

    once = directory("--only=lightly", "--repeats=1")
    assert directory("--only=torchvision", "--seconds=3") == once
    assert directory("--schedule.epochs=3") != once
    ours = contestants(config_of(shards, tmp_path))[0]
    assert learnt_directory(ours, str(tmp_path), "of other data") != once


@pytest.mark.parametrize("peer", ["torchvision", "solo_learn", "lightly", "stable_pretraining"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_peer_learns_from_every_image_once_an_epoch(peer: str, precision: str, shards: Path, tmp_path: Path) -> None:
    if peer in ("lightly", "stable_pretraining"):
        pytest.importorskip(peer)
    everyone = {one.name: one for one in contestants(config_of(shards, tmp_path))}
    options: dict[str, Any] = everyone[f"{peer}, {precision}"].options | {"workers": 0}
    output = tmp_path / "learnt"
    learn("ops.bench.training_peers:begin", 1, options, steps_per_epoch=4, output=str(output))
    first, second = (load_encoder(output / f"epoch-00{epoch}" / "encoder") for epoch in (1, 2))
    assert [description.images_seen for _, description in (first, second)] == [64, 128]
    assert not torch.equal(first[0].conv1.weight, second[0].conv1.weight)
    clocks = [json.loads((output / f"epoch-00{epoch}" / "clock.json").read_text()) for epoch in (1, 2)]
    assert 0 < clocks[0]["seconds"] < clocks[1]["seconds"]


@pytest.mark.parametrize("peer", ["torchvision", "solo_learn", "lightly", "stable_pretraining"])
def test_no_peer_adapts_the_rate_of_norms_and_biases(peer: str, shards: Path, tmp_path: Path) -> None:
    if peer in ("lightly", "stable_pretraining"):
        pytest.importorskip(peer)
    config = config_of(shards, tmp_path, "--views.blur_probability=0.5")
    recipe = recipe_of(peer, config, build_encoder(config.encoder, config.views.size))
    gains = [parameter for parameter in recipe.learns.parameters() if parameter.ndim == 1]
    before = [gain.detach().clone() for gain in gains]
    for parameter in recipe.learns.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    recipe.optimizer.step()
    rate = recipe.optimizer.param_groups[0]["lr"]
    for gain, old in zip(gains, before, strict=True):
        torch.testing.assert_close(gain.detach(), old - rate * 0.5)


@pytest.mark.parametrize("peer", ["torchvision", "solo_learn", "lightly", "stable_pretraining"])
def test_a_peer_makes_two_views_with_blur(peer: str, shards: Path, tmp_path: Path) -> None:
    if peer in ("lightly", "stable_pretraining"):
        pytest.importorskip(peer)
    config = config_of(shards, tmp_path, "--views.blur_probability=1", "--views.size=64")
    recipe = recipe_of(peer, config, build_encoder(config.encoder, config.views.size))
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    views = recipe.views(default_collate([recipe.transform(Image.fromarray(noise))]))
    for view in views:
        assert view.shape == (1, 3, 64, 64)
        neighbours = (view[..., 1:] - view[..., :-1]).std() / view.std()
        assert neighbours < 1.2  # of noise that is not blurred: the root of 2


def test_ours_learns_what_pretraining_does_and_is_scored_after_each_epoch(shards: Path, tmp_path: Path) -> None:
    ours = contestants(config_of(shards, tmp_path, "--precision=fp32"))[0]
    learn(ours.call, 1, ours.options, steps_per_epoch=4, output=str(tmp_path / "learnt"))
    ends = [tmp_path / "learnt" / f"epoch-00{epoch}" for epoch in (1, 2)]
    report = scored(ends, str(shards))
    assert [0 <= epoch["knn"] <= 1 for epoch in report["epochs"]] == [True, True]
    assert report["knn"] == report["epochs"][-1]["knn"]
    reached = [epoch["seconds"] for epoch in report["epochs"] if epoch["knn"] >= 0.45]
    assert report["seconds_to"]["0.45"] == (reached[0] if reached else None)
    assert len(lines({"machine": MACHINE, "learnt": {"ours": report}})) == 3


def test_updates_of_ours_and_of_its_bound_are_counted(shards: Path, tmp_path: Path) -> None:
    for one in contestants(config_of(shards, tmp_path, "--precision=fp32"))[:2]:
        assert list(timed_updates(one.call, 1, one.options)) == [16] * 8


def test_a_failed_and_a_disturbed_run_are_told_beside_the_median(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def outcome(*rates: int, failure: str = "") -> Outcome:
        runs = [Measurement(images=rate, wall_seconds=1.0, cpu_seconds=1.0) for rate in rates]
        return Outcome(kept=runs, failure=failure)

    outcomes = [outcome(300, 310, 290), outcome(98, 320, 310), outcome(100, failure="failed"), outcome(failure="gone")]
    config = config_of(shards, tmp_path, "--learn=false", "--only=bf16")
    everyone = contestants(config)[:4]
    by_name = {one.name: each for one, each in zip(everyone, outcomes, strict=True)}
    monkeypatch.setattr("ops.bench.end_to_end.measure", lambda *_: by_name)
    rates = timed(config, everyone)["rates"]
    steady, disturbed, broken, gone = rates.values()
    assert (steady["noisy"], disturbed["noisy"], broken["noisy"]) == (False, True, True)
    assert (broken["median"], broken["runs"], broken["failure"], broken["ratio"]) == (100.0, 1, "failed", 3.0)
    assert gone == {"failure": "gone"}
    assert lines({"machine": MACHINE, "rates": rates})[-2].endswith("3.00  noisy  failed")


def test_what_is_timed_does_not_come_to_its_end(shards: Path, tmp_path: Path) -> None:
    config = config_of(shards, tmp_path, "--learn=false", "--precision=fp32")
    ours = contestants(config)[0]
    updates = timed_updates(ours.call, 1, ours.options)
    assert list(islice(updates, 12)) == [16] * 12


def test_an_encoder_that_cannot_be_scored_leaves_the_others(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def learns_nothing(call: str, options: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        Path(options["output"]).mkdir(parents=True)
        return {"made": None, "versions": {"torch": "2"}}

    def scores(ends: list[Path], _data: str) -> dict[str, Any]:
        if "lightly" in str(ends[0]):
            raise RunError("its weights have diverged")
        return {"knn": 0.5}

    monkeypatch.setattr("ops.bench.end_to_end.call_alone", learns_nothing)
    monkeypatch.setattr("ops.bench.end_to_end.scored", scores)
    config = config_of(shards, tmp_path, "--only=lightly")
    report = learnt(config, contestants(config))["learnt"]
    assert report["ours"] == {"knn": 0.5, "versions": {"torch": "2"}}
    assert report["lightly, fp32"] == {"failure": "its weights have diverged"}


def test_memory_counts_the_processes_below() -> None:
    held = bytearray(os.urandom(64)) * (1 << 20)  # 64 MiB, all written
    before = memory_bytes(os.getpid())
    child = os.fork()
    if child == 0:
        held[::4096] = bytes(len(held[::4096]))  # its own copy now
        os.kill(os.getpid(), 19)  # waits
        os._exit(0)
    try:
        os.waitpid(child, os.WUNTRACED)
        assert memory_bytes(os.getpid()) - before > 48 << 20
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
