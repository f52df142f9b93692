"""The report's command: one whole file, whatever a run lacks, and one line where there is nothing to report."""

import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from evaluated_run import evaluated_run, write_features
from tiny_shards import tiny_shards

from eval.report import main, name_runs

Report = Callable[..., str]
_VOID = {"meta", "link", "br", "img", "wbr"}


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Report:
    """Run the command in this process; returns the page."""

    def run(*arguments: object) -> str:
        output = tmp_path / "out" / "report.html"
        monkeypatch.setattr(sys, "argv", ["report", *map(str, arguments), "--output", str(output)])
        main()
        assert [path.name for path in output.parent.iterdir()] == ["report.html"]
        return output.read_text()

    return run


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command, which must fail with one line; returns the line."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["report", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        assert exit_.value.code == 2
        out, err = capfd.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith("report: error: ")
        return err

    return run


class Elements(HTMLParser):
    """Attributes of all elements, whose tags must match."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(page)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


def missing_lines(page: str) -> list[str]:
    return re.findall(r'<p class="missing">(.*?)</p>', page)


def test_two_runs_make_one_whole_page_that_refers_to_nothing_outside(
    report: Report, shards: Path, tmp_path: Path
) -> None:
    runs = [
        evaluated_run(tmp_path / name, shards, accuracy=accuracy, seed=seed)
        for name, accuracy, seed in (("one", 0.8, 0), ("two", 0.6, 1))
    ]
    page = report(*runs, "--points", "40")
    assert missing_lines(page) == []
    elements = Elements(page).found
    ids = Counter(attributes["id"] for _, attributes in elements if "id" in attributes)
    assert max(ids.values()) == 1
    links = [value for _, a in elements for name, value in a.items() if name in ("href", "src", "xlink:href") and value]
    assert len(links) > 30
    assert all(link.startswith("data:") or (link[0] == "#" and link[1:] in ids) for link in links)
    used = re.findall(r"url\((.*?)\)", page)
    assert used
    assert all(name[0] == "#" and name[1:] in ids for name in used)
    assert not {tag for tag, _ in elements} & {"script", "iframe", "object", "form"}
    assert not any(name.startswith("on") for _, attributes in elements for name in attributes)
    policy = [a["content"] for tag, a in elements if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == [
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    ]
    assert all(a.get("alt") for tag, a in elements if tag == "img")
    assert all(a.get("aria-label") or a.get("aria-hidden") for tag, a in elements if tag == "svg")
    for score in json.loads((runs[0] / "eval" / "results.json").read_text())["scores"]:
        assert f'<td class="number strong">{100 * score["value"]:.1f}</td>' in page
    assert "a processor, 2 cores" in page
    assert "abc123" in page


def test_the_same_runs_give_the_same_bytes(report: Report, shards: Path, tmp_path: Path) -> None:
    run_dir = evaluated_run(tmp_path / "run", shards)
    assert report(run_dir, "--points", "12") == report(run_dir, "--points", "12")


def test_names_from_files_are_text_and_never_markup(report: Report, shards: Path, tmp_path: Path) -> None:
    run_dir = evaluated_run(tmp_path / "<script>alert(1)", shards)
    results = run_dir / "eval" / "results.json"
    content = json.loads(results.read_text())
    evil = '</text></svg><script>document.title="$x^2$"</script>'
    (data,) = content["data"].values()
    data["classes"] = [evil, "b&b", "面", "a" * 60]
    data["name"] = content["hardware"] = evil
    content["versions"] = {evil: evil}
    for score in content["scores"]:
        score["variant"], score["details"] = evil, {evil: evil}
    results.write_text(json.dumps(content))
    page = report(run_dir)
    tags = {tag for tag, _ in Elements(page).found}
    assert "script" not in tags
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 20
    assert "$x^2$" in page


def test_a_run_that_has_not_been_evaluated_is_reported_as_far_as_it_goes(
    report: Report, shards: Path, tmp_path: Path
) -> None:
    run_dir = evaluated_run(tmp_path / "run", shards)
    (run_dir / "eval" / "results.json").unlink()
    page = report(run_dir)
    lines = missing_lines(page)
    assert sum("Not evaluated yet; make it with `python -m eval.evaluate" in line for line in lines) == 4
    assert "No two scores of the same images to compare." in lines
    assert "Loss by epoch" in page
    assert 'alt="view 1"' in page


def test_a_run_that_has_only_begun_is_reported(report: Report, shards: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    kept = (evaluated_run(tmp_path / "whole", shards) / "config.yaml").read_text()
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text(kept)
    lines = missing_lines(report(run_dir))
    assert "No log lines yet: metrics.jsonl is missing or empty." in lines


def test_data_that_is_not_there_any_more_costs_only_the_images(report: Report, shards: Path, tmp_path: Path) -> None:
    run_dir = evaluated_run(tmp_path / "run", shards)
    config = run_dir / "config.yaml"
    config.write_text(config.read_text().replace(str(shards), str(tmp_path / "gone")))
    page = report(run_dir)
    lines = missing_lines(page)
    assert len(lines) == 2
    assert all("gone/manifest.json: no such file" in line for line in lines)
    assert "t-SNE of run" in page
    assert missing_lines(report(run_dir, "--data.dir", shards)) == []


def test_views_of_unlabelled_data_are_shown(report: Report, shards: Path, tmp_path: Path) -> None:
    run_dir = evaluated_run(tmp_path / "run", shards)
    unlabelled = tiny_shards(tmp_path / "plain", images_per_class=16, classes=1, side=32, labelled=False)
    config = run_dir / "config.yaml"
    config.write_text(config.read_text().replace(str(shards), str(unlabelled)))
    (run_dir / "encoder" / "encoder.json").unlink()
    assert 'alt="no label, sample ' in report(run_dir)


def test_many_classes_give_their_most_confused_pairs(report: Report, tmp_path: Path) -> None:
    data = tiny_shards(tmp_path / "data", images_per_class=2, classes=24, side=8)
    run_dir = evaluated_run(tmp_path / "run", tiny_shards(tmp_path / "few", images_per_class=4, classes=4, side=32))
    results = run_dir / "eval" / "results.json"
    content = json.loads(results.read_text())
    (entry,) = content["data"].values()
    entry["classes"] = [f"kind{i}" for i in range(24)]
    right = np.repeat(np.arange(24, dtype=np.int32), 2)
    answers = right.copy()
    answers[[0, 1, 2]] = [5, 5, 9]
    for score in content["scores"]:
        score["n_test"] = 48
        np.save(run_dir / "eval" / score["predictions"], answers)
    np.save(run_dir / "eval" / entry["labels"], right)
    results.write_text(json.dumps(content))
    (run_dir / "eval" / "features" / "train-encoder.safetensors").unlink()
    page = report(run_dir, "--data.dir", data)
    assert '<table class="matrix">' not in page
    rows = re.findall(r'<th scope="row">(kind\d+)</th><td>(kind\d+)</td><td class="number">(\d+)</td>', page)
    assert rows == [("kind0", "kind5", "2"), ("kind1", "kind9", "1")]
    assert "4 between them are left out" in page


def test_features_that_are_all_alike_are_said_to_have_collapsed(report: Report, shards: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    run_dir = evaluated_run(tmp_path / "run", shards)
    write_features(run_dir, shards)
    path = run_dir / "eval" / "features" / "test-encoder.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"features": np.full_like(tensors["features"], 1000.3)}, path)
    assert missing_lines(report(run_dir)) == ["run: all features are alike: the representation has collapsed"]


def test_without_scikit_learn_the_line_says_how_to_get_it(
    report: Report, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    lines = missing_lines(report(evaluated_run(tmp_path / "run", shards)))
    assert lines == ["run: scikit-learn is not installed; get it with `pip install -e &#39;.[report]&#39;`"]


def test_what_is_not_a_run_is_refused_and_an_older_report_kept(
    refused: Callable[..., str], shards: Path, tmp_path: Path
) -> None:
    older = tmp_path / "report.html"
    older.write_text("older")
    run_dir = evaluated_run(tmp_path / "run", shards)
    line = refused(run_dir, tmp_path / "nothing", "--output", older)
    assert line == (f"report: error: {tmp_path}/nothing: no config.yaml; give the run directory of train/pretrain.py\n")
    (run_dir / "config.yaml").write_text("global_batch: 1\n")
    assert "global_batch = 1" in refused(run_dir, "--output", older)
    assert older.read_text() == "older"


def test_bad_arguments_are_refused(refused: Callable[..., str], shards: Path, tmp_path: Path) -> None:
    assert "runs: none named" in refused()
    assert "runs: one is named twice" in refused("a", "a")
    assert "9 named; at most 8 can be told apart" in refused(*"abcdefghi")
    assert "points" in refused("a", "--points", "0")


def test_a_place_that_cannot_be_written_is_told(refused: Callable[..., str], shards: Path, tmp_path: Path) -> None:
    run_dir = evaluated_run(tmp_path / "run", shards)
    (run_dir / "eval" / "results.json").unlink()
    (tmp_path / "taken" / "inside").mkdir(parents=True)
    line = refused(run_dir, "--output", tmp_path / "taken")
    assert "cannot be written (Is a directory)" in line
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_run_directories_may_stand_anywhere_among_the_flags() -> None:
    assert name_runs(["a b", "--points", "5", 'c"', "--output=x"]) == [
        '--runs=["a b", "c\\""]',
        "--points",
        "5",
        "--output=x",
    ]
    assert name_runs(["--help"]) == ["--help"]
