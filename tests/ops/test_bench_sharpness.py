from pathlib import Path

import pytest
import torch
from tiny_shards import tiny_shards

from ops.bench.sharpness import main, upper_half


def test_energy_is_told_apart_by_frequency() -> None:
    row = torch.arange(64, dtype=torch.float32)
    slow, fast = (torch.cos(2 * torch.pi * row * cycles).expand(1, 3, 64, 64) for cycles in (0.1, 0.4))
    assert upper_half(slow).item() < 0.01
    assert upper_half(fast).item() > 0.99


def test_crops_from_the_source_are_sharper_than_from_a_small_canvas(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tiny_shards(tmp_path / "data", images_per_class=8, side=96)
    arguments = ["--canvases", "[32, 96]", "--size", "32", "--batch", "8", "--epochs", "1", "--json", "true"]
    main(["--imagenet", str(data), *arguments])
    import json

    report = json.loads(capsys.readouterr().out)
    assert list(report) == ["canvas 32", "canvas 96", "source"]
    assert report["canvas 32"]["all"] < 0.8 * report["source"]["all"]
    assert report["canvas 96"]["all"] == pytest.approx(report["source"]["all"], rel=0.1)
    assert all(entry["images_per_cpu_second"] > 0 for entry in report.values())
