"""A run directory as training and evaluation leave it behind, made in milliseconds."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from model.config import EncoderConfig
from pipelines.config import DataConfig, ViewsConfig
from pipelines.manifest import open_split
from train.arguments import to_yaml
from train.config import PretrainConfig

STEPS_PER_EPOCH = 4


def evaluated_run(run_dir: Path, data: Path, *, accuracy: float = 0.8, seed: int = 0) -> Path:
    """Write every file that a report reads.

    Args:
        run_dir: made.
        data: data set of 32 px whose splits train and test have labels.
        accuracy: share of right answers of the encoder; its controls' are lower.
        seed: of answers and features.
    """
    run_dir.mkdir(parents=True)
    config = PretrainConfig(
        run_dir=str(run_dir),
        data=DataConfig(dir=str(data), canvas=32),
        views=ViewsConfig(size=32),
        encoder=EncoderConfig(name="resnet18", stem="cifar", width=0.0625),
        global_batch=16,
        seed=seed,
    )
    (run_dir / "config.yaml").write_text(to_yaml(config))
    write_log(run_dir / "metrics.jsonl", range(1, 13))
    starts = [{"time": 1_750_000_000 + step, "step": step, "world_size": 2, "host": "node"} for step in (0, 6)]
    (run_dir / "starts.jsonl").write_text("".join(json.dumps(start) + "\n" for start in starts))
    test = open_split(data, "test")
    fingerprint, classes = test.manifest.fingerprint, test.manifest.classes
    (run_dir / "encoder").mkdir()
    encoder = {"data_name": "tiny", "data_fingerprint": fingerprint, "step": 12, "images_seen": 192}
    (run_dir / "encoder" / "encoder.json").write_text(json.dumps(encoder))
    write_features(run_dir, data, seed)
    scores = [
        write_answers(run_dir, data, protocol, representation, share, seed)
        for protocol in ("knn", "linear")
        for representation, share in (("encoder", accuracy), ("random_init", accuracy / 2), ("raw_pixels", 0.3))
    ]
    write_results(run_dir, data, scores, classes)
    return run_dir


def write_log(path: Path, steps: Sequence[int], steps_per_epoch: int = STEPS_PER_EPOCH) -> None:
    """Lines whose loss is 10 / step and whose throughput is 100."""
    lines = [
        {
            "step": step,
            "epoch": step / steps_per_epoch,
            "loss": 10 / step,
            "images_per_second": 100.0,
            "gradient_norm": 2.0,
            "largest_trust_ratio": None,
            "probe_top1": 0.5,
            "health": {"alignment": 1 / step},
            "stage_seconds": {"forward": 0.1, "backward": 0.4},
        }
        for step in steps
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_features(run_dir: Path, data: Path, seed: int = 0) -> None:
    """Features of both splits: noise about a direction for each class."""
    generator = np.random.default_rng(seed)
    directory = run_dir / "eval" / "features"
    directory.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        labels = open_split(data, split).samples["label"].astype(np.int64)
        features = generator.normal(size=(len(labels), 12)) + 3 * np.eye(12)[labels]
        tensors = {"features": features.astype(np.float32), "labels": labels}
        save_file(tensors, directory / f"{split}-encoder.safetensors")


def write_answers(
    run_dir: Path, data: Path, protocol: str, representation: str, accuracy: float, seed: int
) -> dict[str, Any]:
    """Answers of which this share is right, and what results.json says of them."""
    test = open_split(data, "test")
    right, classes = test.samples["label"].astype(np.int32), len(test.manifest.classes)
    generator = np.random.default_rng(seed + int(1000 * accuracy))
    answers = np.where(generator.random(len(right)) < accuracy, right, (right + 1) % classes).astype(np.int32)
    directory = run_dir / "eval" / "predictions"
    directory.mkdir(parents=True, exist_ok=True)
    np.save(directory / "labels.npy", right)
    np.save(directory / f"{protocol}-{representation}.npy", answers)
    value = float((answers == right).mean())
    return {
        "protocol": protocol,
        "variant": "",
        "representation": representation,
        "metric": "top1",
        "value": value,
        "interval": [value - 0.1, value + 0.1],
        "chance": 1 / classes,
        "n_train": 64,
        "n_test": len(right),
        "seconds": 1.5,
        "data": f"{test.manifest.fingerprint}/test",
        "predictions": f"predictions/{protocol}-{representation}.npy",
        "key": "",
        "details": {"k": 5},
    }


def write_results(run_dir: Path, data: Path, scores: Sequence[dict[str, Any]], classes: Sequence[str]) -> None:
    """eval/results.json."""
    fingerprint = open_split(data, "test").manifest.fingerprint
    content = {
        "format": "diptych-evaluation",
        "version": 1,
        "scores": list(scores),
        "data": {
            f"{fingerprint}/test": {
                "name": "tiny",
                "fingerprint": fingerprint,
                "split": "test",
                "classes": list(classes),
                "labels": "predictions/labels.npy",
            }
        },
        "encoder": {},
        "versions": {"torch": "2.14.1"},
        "hardware": "a processor, 2 cores",
        "world_size": 1,
        "git_revision": "abc123",
        "seconds": 3.0,
    }
    (run_dir / "eval" / "results.json").write_text(json.dumps(content))
