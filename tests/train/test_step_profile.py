import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from model.config import EncoderConfig, HeadConfig
from pipelines.config import DataConfig, ViewsConfig
from pipelines.loader import Batch, Share, training_batches
from pipelines.manifest import open_split
from train.build import build
from train.config import PretrainConfig
from train.distributed import make_accelerator
from train.errors import RunError
from train.step_profile import profiled
from train.trainer import Trainer


@pytest.fixture
def config(shards: Path, tmp_path: Path) -> PretrainConfig:
    return PretrainConfig(
        run_dir=str(tmp_path),
        data=DataConfig(dir=str(shards), canvas=32),
        views=ViewsConfig(size=32),
        encoder=EncoderConfig(name="resnet18", stem="cifar", width=0.125),
        head=HeadConfig(dim=16),
        global_batch=8,
        precision="fp32",
        device="cpu",
        cpu_threads=1,
        profile="steps=3:5",
    )


def trainer_and_batches(config: PretrainConfig, steps: int) -> tuple[Trainer, Iterator[Batch]]:
    AcceleratorState._reset_state(reset_partial_state=True)
    split = open_split(config.data.dir, "train")
    trainer, _ = build(config, split, make_accelerator(config))
    share = Share(global_batch=8, seed=0, last_step=steps)
    return trainer, training_batches(split, config.data, config.views, share, torch.device("cpu"))


def train_profiled(config: PretrainConfig, steps: int) -> list[int]:
    trainer, batches = trainer_and_batches(config, steps)
    made = []
    for batch in profiled(batches, trainer, Path(config.run_dir) / "profile"):
        trainer.train_step(batch)
        made.append(batch.step)
    return made


def events(path: Path) -> list[str]:
    with gzip.open(path, "rt") as file:
        return [event.get("name", "") for event in json.load(file)["traceEvents"]]


@pytest.mark.filterwarnings("ignore:Memory block of unknown size")
def test_the_steps_asked_for_and_no_others_are_traced_with_their_stages(config: PretrainConfig) -> None:
    assert train_profiled(config, 7) == list(range(7))
    directory = Path(config.run_dir) / "profile"
    assert sorted(path.name for path in directory.iterdir()) == [
        "steps-3-5.rank-0.operators.txt",
        "steps-3-5.rank-0.trace.json.gz",
    ]
    names = events(directory / "steps-3-5.rank-0.trace.json.gz")
    for stage in ("augment", "forward", "loss", "backward", "optimizer", "evaluation"):
        assert names.count(stage) == 2, stage
    assert "aten::convolution_backward" in names
    assert "aten::convolution_backward" in (directory / "steps-3-5.rank-0.operators.txt").read_text()


def test_a_run_that_ends_among_them_leaves_what_there_was(config: PretrainConfig) -> None:
    assert train_profiled(config, 4) == list(range(4))
    names = events(Path(config.run_dir) / "profile" / "steps-3-4.rank-0.trace.json.gz")
    assert names.count("forward") == 1


def test_a_run_that_never_comes_there_says_so(config: PretrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    train_profiled(config, 2)
    assert "nothing to profile: no step between 3 and 5 was made" in capsys.readouterr().out
    assert not (Path(config.run_dir) / "profile").exists()


@pytest.mark.parametrize("text", ["10:20", "steps=", "steps=5", "steps=5:5", "steps=a:b", "steps=-1:3"])
def test_what_is_no_range_of_steps_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"profile = {text}: must be steps=A:B with A < B"):
        PretrainConfig(profile=text)


def test_nvtx_without_cuda_is_refused() -> None:
    with pytest.raises(RunError, match="nvtx = true: needs CUDA"):
        make_accelerator(PretrainConfig(device="cpu", nvtx=True))
