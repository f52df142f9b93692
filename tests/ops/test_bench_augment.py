import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ops.bench import (
    augment,
    views_dali,
    views_floor,
    views_kornia,
    views_lightly,
    views_ours,
    views_torchvision,
    views_work,
)
from ops.bench.augment import AugmentBenchConfig, compared
from ops.bench.counting import bytes_moved, dispatches, peak_bytes
from ops.bench.measure import Answer, BenchConfig, Contestant
from ops.bench.views_contestants import FLOOR, KORNIA, OURS, PLAIN, SAMPLE, contestants
from ops.bench.views_input import make_canvases
from ops.bench.views_setting import Setting, count_views
from ops.bench.views_wanted import wanted_ratios
from train.errors import RunError

TINY = Setting(title="32 px: tiny", images=3, canvas=48, height=60, width=80, size=32, strength=1.0, blur=0.5)
OPTIONS = asdict(TINY)
MEGABYTE = 1 << 20
RATES = {OURS: 300, SAMPLE: 240, KORNIA: 100, "ours, compiled": 400, "DALI operators": 250, FLOOR: 30_000}


def fake_run(contestant: Contestant, _: BenchConfig) -> Answer:
    """Two undisturbed seconds, or what is not there."""
    if contestant.name not in RATES:
        return {"missing": f"No module named '{contestant.name}'"}
    return {"images": 2 * RATES[contestant.name], "wall_seconds": 2.0, "cpu_seconds": 2.0, "versions": {}}


def fake_count(_: str, options: dict[str, Any]) -> Answer:
    """Kornia is missing."""
    if options["views_config"] is None:
        return {"missing": "No module named 'kornia'"}
    return {"made": {"dispatches": 1_234, "bytes_moved": 5_000_000, "peak_bytes": 30, "output_bytes": 10}}


def floats(count: int) -> Tensor:
    return torch.ones(count // 4)


def test_canvases_are_smooth_and_the_same_for_everybody() -> None:
    canvases = make_canvases(TINY)
    assert canvases.shape == (3, 3, 48, 48)
    assert canvases.dtype == torch.uint8
    assert canvases.is_contiguous(memory_format=torch.channels_last)
    assert canvases.equal(make_canvases(TINY))
    assert canvases.float().diff(dim=3).abs().mean() < 0.1 * (canvases.max() - canvases.min())


def test_views_of_another_shape_type_or_number_are_refused() -> None:
    whole = np.zeros((6, 3, 32, 32), np.float32)
    assert count_views([whole], TINY) == count_views([whole[:3], torch.zeros(3, 3, 32, 32)], TINY) == 6
    with pytest.raises(ValueError, match="5 views, not 6"):
        count_views([whole[:5]], TINY)
    with pytest.raises(ValueError, match="float64"):
        count_views([whole.astype(np.float64)], TINY)
    with pytest.raises(ValueError, match="shape"):
        count_views([whole[:, :, :31]], TINY)


def test_every_contestant_makes_two_views_of_each_image() -> None:
    made: dict[str, Iterator[int]] = {
        "ours": views_ours.views(OPTIONS, dict(PLAIN)),
        "Kornia": views_kornia.views(OPTIONS, compiled=False),
        "torchvision": views_torchvision.views(OPTIONS),
        "DALI": views_dali.views(OPTIONS),
    }
    for name, numbers in made.items():
        assert list(islice(numbers, 2)) == [6, 6], name


def test_lightly_makes_two_views_of_each_image() -> None:
    pytest.importorskip("lightly")
    assert next(views_lightly.views(OPTIONS)) == 6


def test_each_batch_of_ours_is_drawn_anew_and_in_another_order_of_colours() -> None:
    make = views_ours.maker(TINY, dict(PLAIN))
    first, second = make(), make()
    assert first.shape == (6, 3, 32, 32)
    assert not first.equal(second)
    assert views_ours.maker(TINY, dict(PLAIN))().equal(first)


def test_a_copy_counts_as_the_views_whose_bytes_it_reads_and_writes() -> None:
    assert TINY.canvas_bytes == make_canvases(TINY).nbytes
    assert TINY.view_bytes == views_ours.maker(TINY, dict(PLAIN))().nbytes
    batch_bytes = TINY.canvas_bytes + TINY.view_bytes
    assert next(views_floor.copying(OPTIONS, least_bytes=0)) == 2 * 6
    assert next(views_floor.copying(OPTIONS, least_bytes=10 * batch_bytes - 1)) == 2 * 10 * 6


def test_contestants_have_names_of_their_own_and_options_that_json_can_carry() -> None:
    everyone = contestants(TINY, 2.0, "peers/python")
    assert everyone[0].name == OURS
    assert len({one.name for one in everyone}) == len(everyone)
    assert {one.name: one.wanted_ratio for one in everyone if one.wanted_ratio} == {KORNIA: 2.0}
    assert [one.name for one in everyone if one.python == "peers/python"] == ["lightly SimCLRTransform"]
    for one in everyone:
        assert json.loads(json.dumps(one.options)) == one.options
        assert not one.distributions or not one.name.startswith(OURS)


def test_wanted_ratios_say_whether_they_hold() -> None:
    told = {entry["name"]: entry for entry in wanted_ratios(TINY, {name: {"median": RATES[name]} for name in RATES})}
    assert told["ours / Kornia"] == {
        "section": "32 px: tiny",
        "name": "ours / Kornia",
        "ratio": 3.0,
        "wanted": 2.6,
        "aim": 4.5,
        "holds": True,
    }
    assert told[f"{SAMPLE} / ours"]["ratio"] == 0.8
    assert told[f"{SAMPLE} / DALI operators"]["holds"] is False
    unknown = told[f"{SAMPLE} / torchvision v2"]
    assert (unknown["ratio"], unknown["holds"]) == (None, None)


def test_the_report_has_sections_ratios_and_work() -> None:
    report = compared(AugmentBenchConfig(json=True, repeats=1), fake_run, fake_count)
    small, large = report["sections"].values()
    assert small[KORNIA]["ratio"] == 3.0
    assert (small[KORNIA]["wanted_ratio"], large[KORNIA]["wanted_ratio"]) == (2.6, 2.0)
    assert small["torchvision v2"]["failure"].startswith("not installed")
    assert {entry["section"] for entry in report["wanted"]} == set(report["sections"]) == set(report["work"])
    ours = report["work"]["32 px: 512 images"][OURS]
    assert (ours["dispatches"], ours["floor_ratio"]) == (1_234, 100.0)
    json.dumps(report)


def test_the_report_in_words_names_its_unit_and_what_misses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ops.bench.measure.run_alone", fake_run)
    monkeypatch.setattr(views_work, "call_alone", fake_count)
    augment.main(["--sizes=32", "--repeats=1"])
    told = capsys.readouterr().out.splitlines()
    assert sum("views/CPU-s" in line for line in told) == 1
    (kornia,) = (line for line in told if "ours / Kornia  " in line)
    assert kornia.split()[2:] == ["ours", "/", "Kornia", "3.00", ">=", "2.6", "holds", "(aim:", "4.5)"]
    assert any(line.endswith("not measured") for line in told)
    assert any("DALI operators" in line and line.endswith("misses") for line in told)
    assert any(line.split()[-4:] == ["1,234", "5", "3.00", "100"] for line in told)
    assert any(line.endswith("No module named 'kornia'") for line in told)


def test_only_those_asked_for_are_measured_beside_ours_and_the_floor() -> None:
    report = compared(AugmentBenchConfig(json=True, repeats=1, sizes="32", only="dali"), fake_run, fake_count)
    assert set(report["sections"]["32 px: 512 images"]) == {OURS, "DALI operators", FLOOR}


def test_a_size_without_a_section_is_refused() -> None:
    with pytest.raises(RunError, match="'64' is none of 32, 224"):
        compared(AugmentBenchConfig(sizes="32,64"), fake_run, fake_count)


def test_counting_of_a_real_batch_finds_what_it_is_made_of() -> None:
    ours, kornia = (views_work.counted(OPTIONS, config) for config in (dict(PLAIN), None))
    for told in (ours, kornia):
        assert told["output_bytes"] == TINY.view_bytes
        assert told["peak_bytes"] >= TINY.view_bytes
        assert told["bytes_moved"] >= TINY.canvas_bytes + TINY.view_bytes
    assert 10 < ours["dispatches"] < kornia["dispatches"]


def test_dispatches_are_counted_with_views() -> None:
    x = floats(MEGABYTE)
    assert dispatches(lambda: None) == 0
    assert dispatches(lambda: x + 1) == 1
    assert dispatches(lambda: x.view(2, -1)[0].mul_(2)) == 3


def test_bytes_moved_are_those_read_and_written() -> None:
    x, y = floats(MEGABYTE), floats(MEGABYTE)
    table = x.view(512, 512)
    rows = torch.arange(4)
    for function, megabytes in (
        (lambda: x + y, 3.0),
        (lambda: x.add_(y), 3.0),
        (lambda: torch.add(x, y, out=x), 3.0),
        (lambda: x.copy_(y), 2.0),
        (x.zero_, 1.0),
        (lambda: x.to(torch.float64), 3.0),
        (lambda: table.t()[1:].unsqueeze(0), 0.0),
        (lambda: torch.empty_like(x), 0.0),
        (lambda: table[:, ::2] * 2, 1.0),
    ):
        assert bytes_moved(function) / MEGABYTE == megabytes
    assert bytes_moved(lambda: table.index_select(0, rows)) == MEGABYTE + rows.nbytes + 4 * 512 * 4


def test_expanded_and_overlapping_inputs_count_as_they_are_stored() -> None:
    x = floats(1 << 10)
    assert bytes_moved(lambda: x.expand(7, -1).neg()) == (1 << 10) + 7 * (1 << 10)
    assert bytes_moved(lambda: x.unfold(0, 8, 1).neg()) == (1 << 10) + 249 * 8 * 4


def test_the_peak_is_that_of_what_lives_at_once() -> None:
    x = floats(MEGABYTE)

    def one_after_the_other() -> Tensor:
        for _ in range(3):
            y = x + 1
            del y
        return x * 2

    def all_at_once() -> Tensor:
        return torch.stack([x + 1, x + 2, x + 3])

    assert peak_bytes(one_after_the_other) == pytest.approx(MEGABYTE, rel=1e-3)  # the numbers are tensors, too
    assert peak_bytes(all_at_once) == pytest.approx(6 * MEGABYTE, rel=1e-3)
    assert peak_bytes(lambda: x.add_(1)) < MEGABYTE


def test_the_peak_sees_what_an_operator_keeps_for_itself() -> None:
    x = floats(MEGABYTE).view(512, 512)
    assert peak_bytes(lambda: x.t().sort(dim=1).values) >= 3 * MEGABYTE  # the indices are int64


@pytest.mark.slow
def test_the_peak_sees_what_compiled_code_allocates() -> None:
    x = floats(MEGABYTE)

    def function(x: Tensor) -> Tensor:
        return x.sin().add(1).mul(2)

    compiled = torch.compile(function)
    compiled(x)
    assert peak_bytes(lambda: compiled(x)) == MEGABYTE
    assert peak_bytes(lambda: function(x)) == pytest.approx(2 * MEGABYTE, rel=1e-3)


def test_without_rates_the_distance_to_the_floor_is_unknown() -> None:
    told = views_work.work(replace(TINY, title="x"), {}, fake_count)
    assert {entry["floor_ratio"] for entry in told.values()} == {None}
