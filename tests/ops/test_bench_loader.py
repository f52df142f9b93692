import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ops.bench import building, contestant, limits, ours, peer_dali, peer_litdata, peer_torchvision, peer_webdataset
from ops.bench.measure import Answer, BenchConfig, Contestant, Outcome, compare, measure, run_alone, summary
from ops.bench.prepared import Images, build_shards, prepare
from ops.bench.tables import ratios, show, table
from train.errors import RunError

CONFIG = BenchConfig(repeats=3, retries=2)
OURS = Contestant(name="ours", call="x:ours", options={}, wanted_rate=500.0)
PEER = Contestant(name="peer", call="x:peer", options={}, distributions=("peer",), wanted_ratio=1.5)
SMALL = 512


def answer(rate: float, utilisation: float = 1.0) -> Answer:
    """A run of two wall seconds."""
    cpu = 2.0 * utilisation
    return {"images": round(rate * cpu), "wall_seconds": 2.0, "cpu_seconds": cpu, "versions": {"peer": "7"}}


class Script:
    """A run function that answers as told and remembers who was asked."""

    def __init__(self, **answers: list[Answer]) -> None:
        self.answers, self.asked = answers, list[str]()

    def __call__(self, asked: Contestant, _: BenchConfig) -> Answer:
        self.asked.append(asked.name)
        return dict(self.answers[asked.name].pop(0))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """One batch of textures, in every form that needs no peer's writer."""
    work = tmp_path_factory.mktemp("bench")
    build_shards(
        *("textures", "--train-count", str(SMALL), "--test-count", "10"),
        *("--format", "jpeg", "--workers", "1", "--output", str(work / "shards")),
    )
    return prepare(work / "shards", work, 32, sys.executable, raw=False)


def test_contestants_take_turns() -> None:
    script = Script(ours=[answer(600)] * 3, peer=[answer(300)] * 3)
    measure([OURS, PEER], CONFIG, script)
    assert script.asked == ["ours", "peer"] * 3


def test_a_disturbed_run_is_rejected_and_repeated() -> None:
    script = Script(ours=[answer(600)] * 3, peer=[answer(300), answer(90, utilisation=0.94), answer(310), answer(290)])
    outcome = measure([OURS, PEER], CONFIG, script)["peer"]
    assert script.asked == ["ours", "peer"] * 3 + ["peer"]
    assert [run.images_per_cpu_second for run in outcome.kept] == [300, 310, 290]
    assert [run.cpu_utilisation for run in outcome.rejected] == [0.94]
    assert not summary(outcome, CONFIG)["noisy"]
    assert summary(outcome, CONFIG)["lowest"] == 290


def test_tries_are_bounded_and_the_least_disturbed_runs_fill_up_as_noisy() -> None:
    utilisations = (0.5, 1.0, 0.9, 0.7, 0.6)
    script = Script(ours=[answer(1000 * utilisation, utilisation) for utilisation in utilisations])
    outcome = measure([OURS], CONFIG, script)["ours"]
    report = summary(outcome, CONFIG)
    assert len(script.asked) == CONFIG.repeats + CONFIG.retries
    assert (report["kept"], report["rejected"], report["noisy"]) == (1, 4, True)
    assert (report["lowest"], report["median"], report["highest"]) == (700, 900, 1000)


def test_the_summary_counts_images_per_cpu_second_and_per_wall_second() -> None:
    script = Script(ours=[answer(rate, utilisation=0.96) for rate in (500, 100, 400)])
    report = summary(measure([OURS], CONFIG, script)["ours"], CONFIG)
    assert (report["lowest"], report["median"], report["highest"]) == (100, 400, 500)
    assert report["images_per_second"] == 384
    assert report["cpu_utilisation"] == 0.96
    assert report["versions"] == {"peer": "7"}


def test_a_peer_that_is_not_installed_is_said_to_be_so_and_not_asked_again() -> None:
    script = Script(ours=[answer(600)] * 3, peer=[{"missing": "No module named 'peer'"}])
    report = compare([OURS, PEER], CONFIG, script)
    assert script.asked.count("peer") == 1
    assert report["peer"] == {"failure": "not installed (No module named 'peer')", "wanted_ratio": 1.5}
    assert "not installed" in table(report)[2]


def test_a_peer_that_fails_leaves_the_others_measured() -> None:
    script = Script(ours=[answer(600)] * 3, peer=[answer(300), {"error": "ValueError: no"}])
    report = compare([OURS, PEER], CONFIG, script)
    assert report["ours"]["kept"] == 3
    assert report["peer"]["failure"] == "failed (ValueError: no)"
    assert report["peer"]["noisy"]


def test_ours_is_compared_with_each_other_and_with_what_was_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    script = Script(ours=[answer(600)] * 3, peer=[answer(300)] * 3)
    section = compare([OURS, PEER], CONFIG, script)
    assert section["peer"]["ratio"] == 2.0
    assert "ratio" not in section["ours"]
    report = {"machine": {"cpu": "abacus", "cores": 1, "date": "today"}, "sections": {"all": section, "none": "no"}}
    assert ratios(report) == {"all": {"peer": 2.0}}
    assert table(section)[2].split() == ["peer", "7", "300", "300", "-", "300", "1.00", "3+0", "2.00", ">=", "1.5"]
    show(report, CONFIG)
    assert capsys.readouterr().out.endswith("\nnone\nno\n")
    show(report, replace(CONFIG, json=True))
    told = json.loads(capsys.readouterr().out)
    assert told.pop("settings")["repeats"] == 3
    assert told == {**report, "ratios": {"all": {"peer": 2.0}}}


def test_a_contestant_that_never_ran_has_no_numbers() -> None:
    assert summary(Outcome(failure="failed"), CONFIG) == {"failure": "failed"}


def test_a_run_has_a_process_of_its_own_on_one_core(tmp_path: Path) -> None:
    building.write_archive([_png()], tmp_path / "images.tar", count=50)
    options = {
        "source": str(tmp_path / "images.tar"),
        "small": str(tmp_path / "images.tar"),
        "directory": str(tmp_path),
    }
    bare = Contestant(name="bare", call="ops.bench.building:bare", options=options, distributions=("pillow",))
    run = run_alone(bare, BenchConfig(seconds=0.1, warm_up_seconds=0.0))
    assert run["images"] % 50 == 0
    assert run["wall_seconds"] >= 0.1
    assert 0 < run["cpu_seconds"] < 1.1 * run["wall_seconds"] + 0.02
    assert run["peak_rss_bytes"] > 1 << 20
    assert set(run["versions"]) == {"pillow"}


def test_what_cannot_be_imported_or_called_is_an_answer_and_no_crash() -> None:
    config = BenchConfig(seconds=0.1, warm_up_seconds=0.0)
    assert "missing" in run_alone(Contestant(name="a", call="ops.bench.no_such_peer:decoded", options={}), config)
    assert "error" in run_alone(Contestant(name="a", call="ops.bench.building:bare", options={}), config)
    assert "error" in run_alone(replace(PEER, python="/no/such/python"), config)


def test_a_batch_that_is_not_whole_is_refused() -> None:
    assert contestant.count_images(np.zeros((4, 2, 2, 3), np.uint8), 48) == 4
    with pytest.raises(ValueError, match="48 bytes, not 49"):
        contestant.count_images(np.zeros((4, 2, 2, 3), np.uint8), 49)


def test_the_first_batches_are_not_timed() -> None:
    def batches() -> Iterator[int]:
        time.sleep(0.2)  # what opening costs
        yield from [1] * 1_000_000

    report = contestant.timed(batches(), {"batch_bytes": 0, "warm_up_seconds": 0.0, "seconds": 0.0})
    assert report["images"] == 1
    assert report["wall_seconds"] < 0.1


def test_a_contestant_that_ends_too_early_is_refused() -> None:
    with pytest.raises(RuntimeError, match="ended after 3 images"):
        contestant.timed(iter([1, 2, 1]), {"batch_bytes": 0, "warm_up_seconds": 0.0, "seconds": 60.0})


def test_the_cpu_time_of_running_and_of_ended_children_counts() -> None:
    before, own = contestant.cpu_seconds(), time.process_time()
    spin = "import sys, time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\nsys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", spin], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    assert contestant.cpu_seconds() - before - (time.process_time() - own) >= 0.25
    child.communicate()
    assert contestant.cpu_seconds() - before - (time.process_time() - own) >= 0.25


@pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities of TorchVision:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset's, when it is left before its end
def test_all_contestants_deliver_the_same_pixels(images: Images) -> None:
    files = str(images.directory / "files")
    epochs = {
        "ours": ours.decoded(str(images.shards), SMALL, 32),
        "ours, cached": ours.cached(str(images.shards), SMALL, 32),
        "DALI": peer_dali.decoded(images.tars, SMALL),
        "webdataset": peer_webdataset.decoded(images.tars, SMALL),
        "torchvision": peer_torchvision.decoded(files, SMALL),
    }
    expected = _as_set(next(ours.decoded(str(images.shards), SMALL, 32)))
    assert len(expected) == SMALL
    for name, batches in epochs.items():
        for batch in islice(batches, 2):
            assert contestant.count_images(batch, SMALL * 32 * 32 * 3) == SMALL, name
            assert _as_set(batch) == expected, name
    assert next(limits.gathering(SMALL, 64, 32)).nbytes == 64 * 32 * 32 * 3


def test_images_of_another_size_are_refused(images: Images, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="64x64"):
        prepare(images.shards, tmp_path, 64, sys.executable, raw=False)


def test_a_peer_without_a_python_is_reported_and_ours_is_measured(images: Images, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ops.bench", "loader", f"--cifar={images.shards}", f"--work={tmp_path}"),
            *("--only=limit: simplejpeg", "--repeats=1", "--retries=0", "--seconds=0.1", "--warm_up_seconds=0"),
            *(f"--peer_python={_bare_python(tmp_path)}", "--json=true"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    decoded, pixels = list(report["sections"].values())[:2]
    assert decoded["ours"]["median"] > 0
    assert pixels["ours, cache in memory"]["wanted_rate"] == 3_000_000
    assert decoded["limit: simplejpeg"]["failure"].startswith("not installed")
    assert report["sections"]["ImageNet"].startswith("left out")
    assert report["machine"]["cores"] == len(os.sched_getaffinity(0))


def _bare_python(directory: Path) -> Path:
    """An interpreter that has the standard library only."""
    script = directory / "python"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    script.chmod(0o755)
    return script


def _as_set(batch: Any) -> set[bytes]:
    pixels: npt.NDArray[np.uint8] = np.asarray(batch)
    pixels = pixels.transpose(0, 2, 3, 1) if pixels.shape[1] == 3 else pixels
    return {image.tobytes() for image in pixels}


def _png() -> bytes:
    from pipelines.build.images import encode_png

    return encode_png(np.full((8, 8, 3), 7, np.uint8))


def test_litdata_gets_caches_of_its_own_since_it_empties_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caches = {}

    def optimize(*_: Any, **__: Any) -> None:
        for name in ("DATA_OPTIMIZER_CACHE_FOLDER", "DATA_OPTIMIZER_DATA_CACHE_FOLDER"):
            caches[name] = Path(os.environ[name])

    for name in ("DATA_OPTIMIZER_CACHE_FOLDER", "DATA_OPTIMIZER_DATA_CACHE_FOLDER"):
        monkeypatch.setenv(name, "elsewhere")
    monkeypatch.setitem(sys.modules, "litdata", SimpleNamespace(optimize=optimize))
    (tmp_path / "files").mkdir()
    peer_litdata.write(str(tmp_path / "files"), str(tmp_path / "chunks"))
    assert len(set(caches.values())) == 2
    assert all(cache.parent.parent == tmp_path and not cache.parent.exists() for cache in caches.values())
