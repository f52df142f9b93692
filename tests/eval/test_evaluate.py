import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_run import tiny_run
from tiny_shards import tiny_shards

from eval.evaluate import main, name_run_dir
from model.encoder_file import load_encoder, save_encoder
from pipelines.manifest import open_split, read_manifest, write_manifest

Evaluate = Callable[..., dict[str, Any]]
Refused = Callable[..., str]


@pytest.fixture
def run_dir(tmp_path: Path, shards: Path) -> Path:
    return tiny_run(tmp_path / "run", shards)


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """Run the command in this process; returns what it wrote."""

    def run(run_dir: Path, *flags: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["evaluate", str(run_dir), "--device", "cpu", *flags])
        main()
        results: dict[str, Any] = json.loads((run_dir / "eval" / "results.json").read_text())
        return results

    return run


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Refused:
    """Run the command, which must fail with one line and leave nothing; returns the line."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        assert exit_.value.code == 2
        out, err = capfd.readouterr()
        (line,) = [line for line in err.splitlines() if "error" in line]
        assert err.endswith(f"{line}\n")
        assert line.startswith("evaluate: error: ")
        assert "Traceback" not in err
        assert out == ""
        assert not any(Path(str(argument), "eval").exists() for argument in arguments)
        return line

    return run


def values(results: dict[str, Any]) -> dict[tuple[str, str, str], float]:
    """By protocol, variant and representation."""
    return {(each["protocol"], each["variant"], each["representation"]): each["value"] for each in results["scores"]}


def test_scores_of_encoder_and_controls_are_written_and_shown(
    run_dir: Path, shards: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    results = evaluate(run_dir)
    assert (results["format"], results["version"], results["world_size"]) == ("diptych-evaluation", 1, 1)
    assert results["encoder"]["step"] == 12
    assert results["versions"]["torch"] == version("torch")
    shares = values(results)
    three = ("encoder", "random_init", "raw_pixels")
    expected = [("knn", variant, name) for name in three for variant in ("", "k=200 T=0.1")]
    assert list(shares) == [*expected, *(("linear", "", name) for name in three)]
    assert shares["linear", "", "raw_pixels"] == 1.0  # the classes of the fixture are colours
    right = open_split(shards, "test").samples["label"]
    shown = capsys.readouterr().out
    for score in results["scores"]:
        low, high = score["interval"]
        assert 0 <= low <= score["value"] <= high <= 1
        assert (score["chance"], score["n_train"], score["n_test"]) == (0.25, 64, 64)
        assert f"{100 * score['value']:.1f} ±{50 * (high - low):.1f}" in shown
        data = results["data"][score["data"]]
        assert (data["name"], data["split"], data["classes"]) == ("tiny", "test", [f"class{i}" for i in range(4)])
        assert np.array_equal(np.load(run_dir / "eval" / data["labels"]), right)
        predictions = np.load(run_dir / "eval" / score["predictions"])
        assert (predictions == right).mean() == score["value"]
    assert not list(run_dir.rglob("*.partial"))


def test_only_the_protocols_and_representations_asked_for_are_run(run_dir: Path, evaluate: Evaluate) -> None:
    results = evaluate(run_dir, "--protocols=knn", "--knn.k=[5]", "--controls=none")
    assert list(values(results)) == [("knn", "", "encoder"), ("knn", "k=200 T=0.1", "encoder")]
    assert [score["details"]["k"] for score in results["scores"]] == [5, 64]


def test_the_same_command_gives_the_same_scores_whatever_the_batch(
    run_dir: Path, shards: Path, tmp_path: Path, evaluate: Evaluate
) -> None:
    first = evaluate(run_dir, "--batch", "64")
    second = evaluate(tiny_run(tmp_path / "again", shards), "--batch", "9")
    assert values(first) == values(second)


def test_other_data_may_be_named_and_val_stands_in_for_test(run_dir: Path, tmp_path: Path, evaluate: Evaluate) -> None:
    other = tiny_shards(tmp_path / "other", images_per_class=8, classes=3, side=40, splits=("train", "val"))
    results = evaluate(run_dir, "--protocols=knn", f"--data.dir={other}")
    ((key, data),) = results["data"].items()
    assert key == f"{read_manifest(other).fingerprint}/val"
    assert data["split"] == "val"
    assert all(score["n_test"] == 24 for score in results["scores"])
    assert results["scores"][0]["chance"] == pytest.approx(1 / 3)


def test_an_encoder_alone_is_scored_as_in_its_run(run_dir: Path, shards: Path, evaluate: Evaluate) -> None:
    in_run = values(evaluate(run_dir, "--controls=none"))
    alone = values(evaluate(run_dir / "encoder", "--controls=none", f"--data.dir={shards}"))
    assert in_run == alone


def test_an_encoder_alone_needs_data_to_be_named(run_dir: Path, refused: Refused) -> None:
    assert "an encoder does not say which data to use; name it with --data.dir" in refused(run_dir / "encoder")


def test_a_repeated_command_goes_on_and_keeps_what_is_there(
    run_dir: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate(run_dir, "--protocols=knn")
    capsys.readouterr()
    monkeypatch.setattr("eval.evaluation.extract", None)  # features were kept
    second = evaluate(run_dir)
    assert second["scores"][:6] == first["scores"]
    assert values(second).keys() - values(first).keys() == {
        ("linear", "", name) for name in ("encoder", "random_init", "raw_pixels")
    }
    told = capsys.readouterr().err
    assert told.count("known from before") == 6
    assert "linear encoder:" in told
    assert evaluate(run_dir, "--protocols=linear")["scores"] == second["scores"]


def test_other_settings_replace_a_score_and_no_other(run_dir: Path, evaluate: Evaluate) -> None:
    before = evaluate(run_dir, "--controls=none", "--knn.k=[5]")
    after = evaluate(run_dir, "--controls=none", "--knn.k=[3]")
    assert [score["details"].get("k") for score in after["scores"]] == [3, 64, None]
    assert after["scores"][1:] == before["scores"][1:]


def test_scores_of_another_encoder_are_dropped(
    run_dir: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(run_dir, "--controls=none")
    encoder, description = load_encoder(run_dir / "encoder")
    encoder.conv1.weight.data += 0.5
    save_encoder(run_dir / "encoder", encoder.state_dict(), description)
    results = evaluate(run_dir, "--controls=none", "--protocols=knn")
    assert {protocol for protocol, _, _ in values(results)} == {"knn"}
    assert "of another encoder, which this command replaces" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_named(run_dir: Path, evaluate: Evaluate, capsys: Any) -> None:
    (run_dir / "eval").write_text("in the way")
    with pytest.raises(SystemExit) as exit_:
        evaluate(run_dir, "--protocols=knn")
    assert exit_.value.code == 2
    assert "cannot be" in capsys.readouterr().err.splitlines()[-1]


def test_results_that_cannot_be_written_are_shown_all_the_same(
    run_dir: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_dir / "eval").mkdir()
    (run_dir / "eval" / "predictions").write_text("in the way")
    with pytest.raises(SystemExit) as exit_:
        evaluate(run_dir, "--protocols=knn", "--controls=none")
    assert exit_.value.code == 2
    *_, shown, error = capsys.readouterr().err.splitlines()
    assert shown.startswith("knn encoder: ")
    assert ".npy: cannot be written" in error


def test_results_that_cannot_be_read_are_not_overwritten(run_dir: Path, evaluate: Evaluate, capsys: Any) -> None:
    (run_dir / "eval").mkdir()
    (run_dir / "eval" / "results.json").write_text('{"scores": [')
    with pytest.raises(SystemExit):
        evaluate(run_dir, "--protocols=knn")
    assert "remove it, and scores are computed anew" in capsys.readouterr().err.splitlines()[-1]
    assert (run_dir / "eval" / "results.json").read_text() == '{"scores": ['


def test_two_ranks_score_what_one_does(run_dir: Path, shards: Path, tmp_path: Path, evaluate: Evaluate) -> None:
    alone = values(evaluate(run_dir))
    again = tiny_run(tmp_path / "again", shards)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "eval.evaluate"]
    done = subprocess.run(
        [sys.executable, *command, str(again), "--device=cpu"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((again / "eval" / "results.json").read_text())
    assert results["world_size"] == 2
    assert values(results) == alone
    assert done.stdout.count("protocol ") == 1


@pytest.mark.parametrize(
    "arguments",
    [["RUN", "--protocols", "knn"], ["--protocols", "knn", "RUN"], ["--protocols=knn", "RUN"], ["--run_dir", "RUN"]],
)
def test_the_run_directory_may_stand_anywhere(arguments: list[str]) -> None:
    named = name_run_dir(arguments)
    assert "--run_dir=RUN" in named or named == ["--run_dir", "RUN"]
    assert [word for word in named if "RUN" not in word] == [word for word in arguments if "RUN" not in word]


def test_a_run_that_does_not_exist_is_refused(tmp_path: Path, refused: Refused) -> None:
    assert f"{tmp_path / 'nowhere'}: no config.yaml and no encoder.json" in refused(tmp_path / "nowhere")


def test_no_run_is_refused(refused: Refused) -> None:
    assert "run_dir: none named" in refused()


def test_an_invalid_configuration_is_refused(run_dir: Path, refused: Refused) -> None:
    (run_dir / "config.yaml").write_text("seeed: 1\n")
    assert "config.yaml" in refused(run_dir)


def test_a_run_without_encoder_is_refused(run_dir: Path, refused: Refused) -> None:
    (run_dir / "encoder" / "encoder.json").unlink()
    assert "encoder.json: no such file" in refused(run_dir)


def test_damaged_weights_are_refused(run_dir: Path, refused: Refused) -> None:
    weights = run_dir / "encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    assert "sha256 differs" in refused(run_dir)


def test_an_encoder_that_diverged_is_refused(run_dir: Path, refused: Refused) -> None:
    encoder, description = load_encoder(run_dir / "encoder")
    encoder.conv1.weight.data[0] = float("nan")
    save_encoder(run_dir / "encoder", encoder.state_dict(), description)
    assert "encoder: features of split train are not finite" in refused(run_dir, "--device=cpu")


def test_an_unknown_protocol_is_refused_with_the_known_ones(run_dir: Path, refused: Refused) -> None:
    assert "magic is not among knn, linear, " in refused(run_dir, "--protocols", "knn,magic")
    assert "none is not among knn, linear" in refused(run_dir, "--protocols", ",")


def test_unlabelled_data_is_refused(run_dir: Path, tmp_path: Path, refused: Refused) -> None:
    other = tiny_shards(tmp_path / "other", labelled=False)
    assert "8 of 8 images of split train have no label" in refused(run_dir, f"--data.dir={other}")


def test_data_without_a_split_to_test_on_is_refused(run_dir: Path, tmp_path: Path, refused: Refused) -> None:
    other = tiny_shards(tmp_path / "other", splits=("train", "extra"))
    assert "no split test or val; it has extra, train" in refused(run_dir, f"--data.dir={other}")


def test_data_without_a_split_to_learn_from_is_refused(run_dir: Path, tmp_path: Path, refused: Refused) -> None:
    other = tiny_shards(tmp_path / "other", splits=("test",))
    assert "no split 'train'" in refused(run_dir, f"--data.dir={other}")


def test_classes_that_train_lacks_are_refused_by_name(run_dir: Path, tmp_path: Path, refused: Refused) -> None:
    other = tmp_path / "other"
    narrow = read_manifest(tiny_shards(other, classes=2, splits=("train",)))
    wide = read_manifest(tiny_shards(other, classes=4, splits=("test",)))
    write_manifest(other, replace(wide, splits=narrow.splits | wide.splits))
    assert "train has no image of class2, class3, but split test has" in refused(run_dir, f"--data.dir={other}")


def test_a_missing_data_set_is_refused(run_dir: Path, tmp_path: Path, refused: Refused) -> None:
    assert "is not a data set directory" in refused(run_dir, f"--data.dir={tmp_path / 'gone'}")


def test_a_damaged_image_is_refused(run_dir: Path, tmp_path: Path, refused: Refused) -> None:
    other = tiny_shards(tmp_path / "other", side=32)
    shard = other / "train-000001.tar"
    data = bytearray(shard.read_bytes())
    middle = data.index(b"IDAT") + 20
    data[middle] ^= 0xFF
    shard.write_bytes(data)
    assert "checksum" in refused(run_dir, f"--data.dir={other}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_refused(run_dir: Path, refused: Refused) -> None:
    assert "device = cuda" in refused(run_dir, "--device", "cuda")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--batch", "0"], "batch"),
        (["--knn.k", "[-1]"], "knn.k"),
        (["--knn.k", "[]"], "knn.k: empty"),
        (["--knn.temperature", "[0.1,0]"], "knn.temperature"),
        (["--device", "tpu"], "device"),
        (["--protokols", "knn"], "did you mean protocols?"),
    ],
)
def test_a_bad_flag_is_refused_by_name(run_dir: Path, refused: Refused, flags: list[str], told: str) -> None:
    assert told in refused(run_dir, *flags)


def test_bad_arguments_are_refused_before_torch_is_imported(run_dir: Path) -> None:
    program = (
        "import sys; from eval.evaluate import main\n"
        "try: main()\n"
        "except SystemExit as error: sys.exit(70 if 'torch' in sys.modules else error.code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(run_dir), "--protocols=magic"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parents[2],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
