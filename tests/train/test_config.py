import subprocess
import sys
from pathlib import Path

import pytest

from train.arguments import parse, to_yaml
from train.config import PretrainConfig, load_config
from train.errors import RunError

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "train" / "configs").glob("*.yaml"))


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_flags_override_the_file_which_overrides_the_defaults(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", "global_batch: 64\noptimizer:\n  base_lr: 2.0\n")
    config = parse(PretrainConfig, ["--config", file, "--global_batch", "32", "--views.size=48"])
    assert (config.global_batch, config.optimizer.base_lr, config.views.size) == (32, 2.0, 48)
    assert config.loss.temperature == 0.1


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_is_valid(path: Path) -> None:
    load_config(path)


def test_the_resolved_configuration_is_itself_a_configuration(tmp_path: Path) -> None:
    config = parse(PretrainConfig, ["--encoder.width=0.25", "--seed", "7", "--stop_after_steps=3"])
    assert load_config(Path(write(tmp_path / "config.yaml", to_yaml(config)))) == config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--global_batch=0"], "global_batch: 0 must be >0"),
        (["--global_batch=1"], "global_batch = 1: one image has no negatives"),
        (["--global_batch=1.5"], "global_batch: invalid literal for int"),
        (["--precision=fp8"], "precision: fp8 is not one of 'auto', 'fp32', 'bf16', 'fp16'"),
        (["--optimizer.base_lrr=1"], "optimizer.base_lrr: no such field .* did you mean optimizer.base_lr?"),
        (["--base_lr=1"], "base_lr: no such field .* did you mean optimizer.base_lr?"),
        (["--schedule.warmup_epochs=200"], "schedule.warmup_epochs = 200.0: at most schedule.epochs = 100"),
        (["--views.crop_area_min=1.5"], "views.crop_area_min = 1.5, .*must be 0 < min <= max <= 1"),
        (["--views.flip_probability=2"], "views.flip_probability: 2 .*must be"),
        (["--views.jitter_strength=9"], "views.jitter_strength = 9.0: at most 1.25"),
        (["--seed=-1"], "seed: -1 must be >=0"),
        (["--config", "missing.yaml"], "missing.yaml: File does not exist"),
    ],
)
def test_a_bad_value_is_refused_in_one_line_that_names_the_field(arguments: list[str], message: str) -> None:
    with pytest.raises(RunError, match=message) as caught:
        parse(PretrainConfig, arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizr:\n  base_lr: 1\n", "optimizr.base_lr: no such field; did you mean optimizer.base_lr?"),
        ("optimizer:\n  nam: lars\n", "optimizer.nam: no such field; did you mean optimizer.name?"),
        ("schedule:\n  epochs: ten\n", "schedule.epochs: .*'ten'"),
        ("optimizer: [\n", "Problems parsing config"),
        ("3\n", "not a mapping of fields to values"),
    ],
)
def test_a_fault_in_a_file_is_told_with_the_files_name(tmp_path: Path, text: str, message: str) -> None:
    file = write(tmp_path / "broken.yaml", text)
    with pytest.raises(RunError, match=f"broken.yaml: {message}") as caught:
        parse(PretrainConfig, ["--config", file])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        "{x: {class_path: antigravity.geohash}}",
        "{x: [{class_path: antigravity.geohash}]}",
        '\'{"x": {"class_path": "antigravity.geohash"}}\'',
        '"{\\"x\\": {\\"class\\\\u005fpath\\": \\"antigravity.geohash\\"}}"',
        "{x.class_path: antigravity.geohash}",
    ],
)
def test_a_file_cannot_make_the_parser_import_a_module(tmp_path: Path, arguments: str) -> None:
    file = write(tmp_path / "hostile.yaml", f"encoder:\n  arguments: {arguments}\n")
    with pytest.raises(RunError, match=r"hostile\.yaml: class_path: no field takes a class"):
        parse(PretrainConfig, ["--config", file])
    assert "antigravity" not in sys.modules


def test_only_fields_that_shape_the_result_count_for_resuming() -> None:
    base = PretrainConfig()
    changed = ["--run_dir=x", "--data.dir=y", "--data.cache=disk", "--data.cache_dir=z", "--data.remote=ranges"]
    changed += ["--resume=never", "--allow_config_change", "--micro_batch=8", "--timeouts.step_seconds=1"]
    changed += ["--non_finite.policy=skip", "--metrics.port=0", "--checkpoint.every_steps=5"]
    free = parse(PretrainConfig, changed)
    assert base.numeric() == free.numeric()
    assert base.sha256() == free.sha256()
    assert base.sha256() != parse(PretrainConfig, ["--seed=1"]).sha256()
    assert base.sha256() != parse(PretrainConfig, ["--data.canvas=48"]).sha256()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--allow_config_change"], True),
        (["--allow_config_change", "--seed=1"], True),
        (["--allow_config_change=false"], False),
        (["--allow_config_change", "false"], False),
        ([], False),
    ],
)
def test_a_yes_or_no_flag_alone_says_yes(arguments: list[str], expected: bool) -> None:
    assert parse(PretrainConfig, arguments).allow_config_change is expected


def test_parsing_does_not_import_torch() -> None:
    code = "import sys, train.pretrain; sys.exit('torch' in sys.modules or 'nvidia.dali' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
