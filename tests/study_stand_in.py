"""Training and scoring that take no time: they leave the files that the real ones leave, with scores made of names."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from eval.studies.files import write_json, write_text
from eval.studies.runs import Children, FailedError, StoppedError

BATCH = 16
"""Of CONFIG."""
CONFIG = """
data: {canvas: 32}
views: {size: 32, reference: torchvision}
encoder: {name: resnet18, stem: cifar, width: 0.125}
optimizer: {base_lr: 2.0}
schedule: {epochs: 4, warmup_epochs: 0}
global_batch: 16
precision: fp32
"""


class StandIn(Children):
    """Knows what it was called with; a score is a hundredth for each letter of the cell, and a tenth per seed."""

    def __init__(
        self, *, fails: str = "", stops: str = "", images_per_second: float = 100.0, seconds: float = 10.0
    ) -> None:
        self.asked = False
        self.calls: list[list[str]] = []
        self._fails, self._stops, self._speed, self._seconds = fails, stops, images_per_second, seconds

    def call(self, arguments: Sequence[str], directory: Path) -> float:
        """As Children.call; runs whose directory has `fails` in it fail, those with `stops` are asked to stop."""
        self.calls.append(list(arguments))
        if self._fails and self._fails in str(directory):
            raise FailedError(f"{directory}: ended with status 1 (a fault)", 1)
        if self._stops and self._stops in str(directory):
            raise StoppedError("asked to stop")
        directory.mkdir(parents=True, exist_ok=True)
        if "eval.evaluate" in arguments:
            return score(arguments, directory)
        return self.train(arguments, directory)

    def stop(self) -> None:
        """There is nothing to stop."""

    def train(self, arguments: Sequence[str], directory: Path) -> float:
        """Write configuration and log lines; twenty steps at the given speed after ten seconds."""
        config = fields_of(arguments)
        write_text(directory / "config.yaml", yaml.safe_dump(config))
        lines = [
            {"step": 5 * n, "epoch": n / 2, "images_per_second": self._speed, "health": {"contrastive_top1": n / 10}}
            for n in range(1, 5)
        ]
        (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return self._seconds + 20 * float(config.get("global_batch", BATCH)) / self._speed


def fields_of(arguments: Sequence[str]) -> dict[str, Any]:
    """Those fields of a configuration that flags name. (The real parser takes a tenth of a second, and one thread.)"""
    fields: dict[str, Any] = {}
    for name, _, value in (word.removeprefix("--").partition("=") for word in arguments if "=" in word):
        *groups, last = name.split(".")
        inner = fields
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = yaml.safe_load(value)
    return fields


def score(arguments: Sequence[str], directory: Path) -> float:
    """Write results.json by the schema of eval.evaluate."""
    flags = dict(word.removeprefix("--").split("=", 1) for word in arguments if word.startswith("--"))
    value = len(directory.parent.name) / 100 + int(directory.name.removeprefix("seed-")) / 10
    controls = {"random_init": 0.3, "raw_pixels": 0.4} if flags["controls"] == "all" else {}
    representations = {"encoder": value} | controls
    scores = [
        {
            "protocol": protocol,
            "variant": "100 % pretraining's views" if protocol == "supervised" else "",
            "representation": name,
            "metric": "top1",
            "value": share,
            "interval": [share - 0.01, share + 0.01],
        }
        for protocol in flags["protocols"].split(",")
        for name, share in representations.items()
        if protocol != "supervised" or name == "encoder"
    ]
    scores.append({**scores[0], "variant": "k=200 T=0.1", "value": 0.0})  # another variant, which no table may take
    content = {"format": "diptych-evaluation", "version": 1, "scores": scores, "hardware": "two cores", "world_size": 1}
    write_json(directory / "eval" / "results.json", content)  # at one stroke, as there: others may be reading
    return 5.0
