"""The command: what it refuses, in one line, and what it leaves behind."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from random_encoders import save_random_encoder
from safetensors.torch import load_file, save_file

from model.config import EncoderConfig
from model.export import main

ROOT = Path(__file__).resolve().parents[2]
VIT = EncoderConfig(name="vit_tiny_patch16_224", arguments={"patch_size": 8, "depth": 1})
CIFAR = EncoderConfig(name="resnet18", stem="cifar", width=0.0625)
NARROW = EncoderConfig(name="resnet18", width=0.0625)
GROUP_NORM = EncoderConfig(name="resnet18", norm="group")
Refused = Callable[..., str]


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    save_random_encoder(tmp_path / "encoder", VIT)
    return tmp_path / "encoder"


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs the command, which must end with status 2 and one line, and leave nothing; gives the line."""

    def run(encoder: Path, *flags: str, format_name: str = "timm") -> str:
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        try:
            status = main([str(encoder), "--format", format_name, "--output", str(tmp_path / "out"), *flags])
        except SystemExit as end:
            status = int(end.code or 0)
        told = capsys.readouterr()
        assert (status, told.out, told.err.count("\n")) == (2, "", 1), told
        assert sorted(tmp_path.rglob("*")) == before
        return told.err

    return run


@pytest.mark.parametrize(
    ("format_name", "config", "told"),
    [
        ("torchvision", CIFAR, "encoder.stem = cifar"),
        ("torchvision", NARROW, "encoder.width = 0.0625"),
        ("torchvision", GROUP_NORM, "encoder.norm = group"),
        ("torchvision", VIT, "encoder.name = vit_tiny_patch16_224"),
        ("timm", CIFAR, "encoder.stem = cifar"),
        ("timm", NARROW, "encoder.width = 0.0625"),
        ("timm", GROUP_NORM, "encoder.norm = group"),
        ("huggingface", CIFAR, "encoder.stem = cifar"),
        ("huggingface", GROUP_NORM, "encoder.norm = group"),
    ],
)
def test_what_a_format_cannot_say_is_refused_with_what_can(
    tmp_path: Path, encoder: Path, refused: Refused, format_name: str, config: EncoderConfig, told: str
) -> None:
    content = json.loads((encoder / "encoder.json").read_text())
    content["encoder"] = {
        "name": config.name, "stem": config.stem, "width": config.width, "norm": config.norm, "arguments": {}
    }  # fmt: skip
    (encoder / "encoder.json").write_text(json.dumps(content))
    line = refused(encoder, format_name=format_name)
    assert told in line
    assert "; use --format " in line


def damage_weights(encoder: Path) -> str:
    (encoder / "model.safetensors").write_bytes(b"no tensors")
    return "does not match encoder.json"


def make_infinite(encoder: Path) -> str:
    import hashlib

    state = load_file(encoder / "model.safetensors")
    state["norm.weight"][3] = float("inf")
    save_file(state, encoder / "model.safetensors")
    digest = hashlib.sha256((encoder / "model.safetensors").read_bytes()).hexdigest()
    edit(encoder, weights_sha256=digest)
    return "norm.weight: not finite"


def forget_normalisation(encoder: Path) -> str:
    content = json.loads((encoder / "encoder.json").read_text())
    del content["mean"], content["std"]
    (encoder / "encoder.json").write_text(json.dumps(content))
    return "mean and std missing: how the input is normalised is not known"


def divide_by_zero(encoder: Path) -> str:
    edit(encoder, std=[1, 1, 0])
    return "std does not fit"


def lose_a_mean(encoder: Path) -> str:
    edit(encoder, mean=[0, 0, float("nan")])
    return "mean does not fit"


def garble_results(encoder: Path) -> str:
    (encoder / "eval").mkdir()
    (encoder / "eval" / "results.json").write_text("{")
    return "eval/results.json: cannot be read"


def halve_results(encoder: Path) -> str:
    digest = json.loads((encoder / "encoder.json").read_text())["weights_sha256"]
    (encoder / "eval").mkdir()
    content = {
        "format": "diptych-evaluation",
        "version": 1,
        "encoder": {"weights_sha256": digest},
        "scores": [{"protocol": "knn", "data": "x"}],
        "data": {},
    }
    (encoder / "eval" / "results.json").write_text(json.dumps(content))
    return "eval/results.json: malformed (KeyError: 'x')"


def garble_config(encoder: Path) -> str:
    (encoder.parent / "config.yaml").write_text("a: [")
    return "config.yaml: cannot be read"


def remove_all(encoder: Path) -> str:
    for path in encoder.iterdir():
        path.unlink()
    return "encoder.json: no such file"


def edit(directory: Path, **changes: Any) -> None:
    content = json.loads((directory / "encoder.json").read_text())
    (directory / "encoder.json").write_text(json.dumps(content | changes))


@pytest.mark.parametrize(
    "damage",
    [
        damage_weights,
        make_infinite,
        forget_normalisation,
        divide_by_zero,
        lose_a_mean,
        garble_results,
        halve_results,
        garble_config,
        remove_all,
    ],
)
def test_a_damaged_source_is_refused(encoder: Path, refused: Refused, damage: Callable[[Path], str]) -> None:
    told = damage(encoder)
    assert told in refused(encoder)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--format=torchvison"], "invalid choice: 'torchvison'"),
        (["--colour=red"], "unrecognized arguments: --colour=red"),
        (["--license=My Own!"], "My Own!: lower-case letters"),
    ],
)
def test_bad_flags_are_refused(encoder: Path, refused: Refused, flags: list[str], told: str) -> None:
    assert told in refused(encoder, *flags)


def test_what_cannot_be_is_refused_before_torch_is_imported(encoder: Path) -> None:
    edit(encoder, encoder={"name": "resnet18", "stem": "cifar"})
    program = "import sys; from model.export import main; sys.exit(70 if main() != 2 or 'torch' in sys.modules else 0)"
    done = subprocess.run(
        [sys.executable, "-c", program, str(encoder), "--format=timm", f"--output={encoder}/out"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (0, 1), done.stderr


@pytest.mark.parametrize(
    ("format_name", "library"),
    [("onnx", "onnx"), ("onnx", "onnxscript"), ("huggingface", "transformers")],
)
def test_a_missing_library_is_named_with_the_extra_that_brings_it(
    encoder: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, format_name: str, library: str
) -> None:
    monkeypatch.setattr("model.export.find_spec", lambda name: None if name == library else find_spec("json"))
    line = refused(encoder, format_name=format_name)
    assert f"{library} not installed; pip install 'diptych[export]'" in line


@pytest.mark.slow
def test_without_onnx_runtime_the_card_says_that_nothing_was_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    save_random_encoder(tmp_path / "encoder", CIFAR)
    monkeypatch.setattr("model.formats.onnx_format.find_spec", lambda _: None)
    assert main([str(tmp_path / "encoder"), "--format", "onnx", "--output", str(tmp_path / "out")]) == 0
    told = "It was not run: onnxruntime was not installed where it was exported."
    assert told in capsys.readouterr().out
    assert told in (tmp_path / "out" / "README.md").read_text()


def test_what_was_compared_is_told(encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(encoder), "--format", "timm", "--output", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "gives the h of Diptych's encoder: on 4 random images they differ by 0 at most" in told
    assert "README.md, config.json, diptych.json, model.safetensors" in told


def test_a_directory_in_use_is_replaced_only_if_it_is_an_export_and_on_request(
    encoder: Path, tmp_path: Path, refused: Refused
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "thesis.tex").touch()
    assert "exists and is not an empty directory" in refused(encoder)
    assert "was not made by this command" in refused(encoder, "--overwrite")
    (output / "thesis.tex").unlink()
    assert main([str(encoder), "--format", "timm", "--output", str(output)]) == 0  # into an empty one
    (output / "old").touch()
    assert main([str(encoder), "--format", "timm", "--output", str(output), "--overwrite"]) == 0
    assert sorted(path.name for path in output.iterdir()) == [
        "README.md",
        "config.json",
        "diptych.json",
        "model.safetensors",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder", "out"]


@pytest.mark.parametrize("failing", [1, 2])
def test_what_cannot_be_put_in_place_leaves_the_old_export(
    encoder: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    assert main([str(encoder), "--format", "timm", "--output", str(tmp_path / "out")]) == 0
    before = (tmp_path / "out" / "README.md").stat()
    rename, calls = Path.rename, []

    def fail(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    assert "out: cannot be written (Input/output error)" in refused(encoder, "--overwrite")
    assert (tmp_path / "out" / "README.md").stat() == before
