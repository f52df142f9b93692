import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from model.export import load_encoder
from ops.bench.end_to_end import EndToEndConfig, contestants, learnt_directory, lines, scored
from ops.bench.memory import memory_bytes
from ops.bench.training import learn, timed_updates
from train.arguments import parse

FLAGS = "--encoder.name=resnet18 --encoder.stem=cifar --encoder.width=0.0625 --head.dim=8 --global_batch=16"
MORE = "--views.size=32 --views.blur_probability=0 --schedule.epochs=2 --schedule.warmup_epochs=0 --device=cpu"
OURS = "--precision=bf16"


def config_of(shards: Path, work: Path, *flags: str) -> EndToEndConfig:
    where = [f"--data.dir={shards}", f"--work={work}", "--workers=0"]
    return parse(EndToEndConfig, [*FLAGS.split(), *MORE.split(), OURS, *where, *flags])


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
        return learnt_directory(contestants(config_of(shards, tmp_path, *flags))[0], str(tmp_path))

    once = directory("--only=lightly", "--repeats=1", "--learn=true")
    assert directory("--only=torchvision", "--seconds=3") == once
    assert directory("--schedule.epochs=3") != once


@pytest.mark.parametrize("peer", ["torchvision", "solo_learn"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_peer_learns_from_every_image_once_an_epoch(peer: str, precision: str, shards: Path, tmp_path: Path) -> None:
    everyone = {one.name: one for one in contestants(config_of(shards, tmp_path))}
    options: dict[str, Any] = everyone[f"{peer}, {precision}"].options | {"workers": 0}
    output = tmp_path / "learnt"
    learn("ops.bench.training_peers:begin", 1, options, steps_per_epoch=4, output=str(output))
    first, second = (load_encoder(output / f"epoch-00{epoch}" / "encoder") for epoch in (1, 2))
    assert [description.images_seen for _, description in (first, second)] == [64, 128]
    assert not torch.equal(first[0].conv1.weight, second[0].conv1.weight)
    clocks = [json.loads((output / f"epoch-00{epoch}" / "clock.json").read_text()) for epoch in (1, 2)]
    assert 0 < clocks[0]["seconds"] < clocks[1]["seconds"]


def test_ours_learns_what_pretraining_does_and_is_scored_after_each_epoch(shards: Path, tmp_path: Path) -> None:
    ours = contestants(config_of(shards, tmp_path, "--precision=fp32"))[0]
    learn(ours.call, 1, ours.options, steps_per_epoch=4, output=str(tmp_path / "learnt"))
    ends = [tmp_path / "learnt" / f"epoch-00{epoch}" for epoch in (1, 2)]
    report = scored(ends, str(shards))
    assert [0 <= epoch["knn"] <= 1 for epoch in report["epochs"]] == [True, True]
    assert report["knn"] == report["epochs"][-1]["knn"]
    reached = [epoch["seconds"] for epoch in report["epochs"] if epoch["knn"] >= 0.45]
    assert report["seconds_to"]["0.45"] == (reached[0] if reached else None)
    assert len(lines({"machine": {"cpu": "a", "cores": 1, "date": ""}, "learnt": {"ours": report}})) == 3


def test_updates_of_ours_and_of_its_bound_are_counted(shards: Path, tmp_path: Path) -> None:
    for one in contestants(config_of(shards, tmp_path, "--precision=fp32"))[:2]:
        assert list(timed_updates(one.call, 1, one.options)) == [16] * 8


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
