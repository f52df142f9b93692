import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_shards import tiny_shards

from eval.evaluate import main, name_run_dir
from model.config import EncoderConfig
from model.description import EncoderDescription
from model.encoder import build_encoder
from model.encoder_file import load_encoder, save_encoder
from pipelines.config import DataConfig, ViewsConfig
from pipelines.manifest import read_manifest, write_manifest
from train.arguments import to_yaml
from train.config import PretrainConfig

ENCODER = EncoderConfig(name="resnet18", stem="cifar", width=0.0625)
Evaluate = Callable[..., dict[str, Any]]
Refused = Callable[..., str]


def make_run(run_dir: Path, data: Path) -> Path:
    """What pretraining leaves behind, after no step at all."""
    run_dir.mkdir(parents=True)
    config = PretrainConfig(
        run_dir=str(run_dir),
        data=DataConfig(dir=str(data), canvas=32),
        views=ViewsConfig(size=16),
        encoder=ENCODER,
        global_batch=16,
        seed=3,
    )
    (run_dir / "config.yaml").write_text(to_yaml(config))
    torch.manual_seed(1)
    description = EncoderDescription(
        encoder=ENCODER,
        image_size=16,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        data_name="tiny",
        data_fingerprint=read_manifest(data).fingerprint,
        config_sha256=config.sha256(),
        step=12,
        images_seen=192,
    )
    save_encoder(run_dir / "encoder", build_encoder(ENCODER, 32).state_dict(), description)
    return run_dir


@pytest.fixture
def run_dir(tmp_path: Path, shards: Path) -> Path:
    return make_run(tmp_path / "run", shards)


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


def test_scores_of_encoder_and_controls_are_written_and_shown(
    run_dir: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    results = evaluate(run_dir)
    controls = results["controls"]
    assert controls["chance"] == 0.25
    scores = [results["knn"]["top1"], results["linear"]["top1"]]
    for control in ("raw_pixels", "random_init"):
        assert list(controls[control]) == ["knn", "linear"]
        scores += controls[control].values()
    assert all(0 <= score <= 1 for score in scores)
    assert controls["raw_pixels"]["linear"] == 1.0  # the classes of the fixture are colours
    assert results["knn"]["k"] == 64
    assert results["linear"]["converged"]
    assert results["encoder"]["step"] == 12
    assert (results["data"]["n_train"], results["data"]["n_test"], results["data"]["split"]) == (64, 64, "test")
    assert [path.name for path in (run_dir / "eval").iterdir()] == ["results.json"]
    shown = capsys.readouterr().out
    for score in scores:
        assert f"{100 * score:.1f}" in shown


def test_only_the_protocols_asked_for_are_run(run_dir: Path, evaluate: Evaluate) -> None:
    results = evaluate(run_dir, "--protocols", "knn", "--knn.k", "5")
    assert "linear" not in results
    assert results["knn"]["k"] == 5
    assert list(results["controls"]["random_init"]) == ["knn"]


def test_the_same_command_gives_the_same_scores_whatever_the_batch(run_dir: Path, evaluate: Evaluate) -> None:
    first, second = (evaluate(run_dir, "--batch", batch) for batch in ("64", "9"))
    assert first["controls"] == second["controls"]
    assert first["knn"] == second["knn"]


def test_other_data_may_be_named_and_val_stands_in_for_test(run_dir: Path, tmp_path: Path, evaluate: Evaluate) -> None:
    other = tiny_shards(tmp_path / "other", images_per_class=8, classes=3, side=40, splits=("train", "val"))
    results = evaluate(run_dir, "--protocols=knn", f"--data.dir={other}")
    assert (results["data"]["split"], results["data"]["n_test"]) == ("val", 24)
    assert results["data"]["fingerprint"] == read_manifest(other).fingerprint
    assert results["controls"]["chance"] == pytest.approx(1 / 3)


def test_results_that_cannot_be_written_are_shown_all_the_same(
    run_dir: Path, evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_dir / "eval").write_text("in the way")
    with pytest.raises(SystemExit) as exit_:
        evaluate(run_dir, "--protocols=knn")
    assert exit_.value.code == 2
    shown = capsys.readouterr()
    assert "raw pixels" in shown.out
    assert "results.json: cannot be written" in shown.err.splitlines()[-1]


def test_an_evaluation_replaces_the_one_before(run_dir: Path, evaluate: Evaluate) -> None:
    evaluate(run_dir, "--protocols=knn")
    assert "linear" in evaluate(run_dir, "--protocols=linear")


@pytest.mark.parametrize(
    "arguments",
    [["RUN", "--protocols", "knn"], ["--protocols", "knn", "RUN"], ["--protocols=knn", "RUN"], ["--run_dir", "RUN"]],
)
def test_the_run_directory_may_stand_anywhere(arguments: list[str]) -> None:
    named = name_run_dir(arguments)
    assert "--run_dir=RUN" in named or named == ["--run_dir", "RUN"]
    assert [word for word in named if "RUN" not in word] == [word for word in arguments if "RUN" not in word]


def test_a_run_that_does_not_exist_is_refused(tmp_path: Path, refused: Refused) -> None:
    assert f"{tmp_path / 'nowhere'}: no config.yaml" in refused(tmp_path / "nowhere")


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
    line = refused(run_dir, "--protocols", "knn,finetune")
    assert "finetune is not among knn, linear" in line
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
        (["--knn.k", "-1"], "knn.k"),
        (["--knn.temperature", "0"], "knn.temperature"),
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
