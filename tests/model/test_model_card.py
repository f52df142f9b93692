"""The model card, read back as the Hugging Face hub reads it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard
from random_encoders import save_random_encoder

from model.config import EncoderConfig
from model.description import weights_sha256
from model.export_source import ExportSource, read_source
from model.model_card import model_card

CIFAR = EncoderConfig(name="resnet18", stem="cifar", width=0.0625)
DATA = {
    "abc/test": {"name": "cifar10", "fingerprint": "abc", "split": "test", "classes": [], "labels": ""},
    "def/val": {"name": "flowers", "fingerprint": "def", "split": "val", "classes": [], "labels": ""},
}


def score(protocol: str, representation: str, value: float, **others: Any) -> dict[str, Any]:
    return {
        "protocol": protocol,
        "variant": "",
        "representation": representation,
        "metric": "top1",
        "value": value,
        "interval": [value - 0.01, value + 0.01],
        "chance": 0.1,
        "n_train": 50_000,
        "n_test": 10_000,
        "data": "abc/test",
        **others,
    }


SCORES = [
    score("knn", "encoder", 0.5521),
    score("knn", "random_init", 0.335),
    score("knn", "raw_pixels", 0.309),
    score("finetune", "encoder", 0.7, variant="10 %", n_train=5000),
    score("supervised", "encoder", 0.6, variant="10 %", n_train=5000),
    score("probes", "h", 0.9, variant="rotation"),
    score("transfer", "encoder", 0.8, variant="flowers linear", metric="mean_per_class", data="def/val"),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    save_random_encoder(tmp_path / "encoder", CIFAR)
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump({"global_batch": 512, "schedule": {"epochs": 12}, "loss": {"temperature": 0.5}, "seed": 3})
    )
    return tmp_path


def write_results(run: Path, **changes: Any) -> None:
    content = {
        "format": "diptych-evaluation",
        "version": 1,
        "encoder": {"weights_sha256": weights_sha256(run / "encoder")},
        "scores": SCORES,
        "data": DATA,
    }
    (run / "eval").mkdir(exist_ok=True)
    (run / "eval" / "results.json").write_text(json.dumps(content | changes))


def card_of(source: ExportSource, licence: str = "unknown") -> str:
    return model_card(
        source,
        name="mine",
        library="timm",
        usage="import timm",
        input_note="timm does it.",
        checked="Checked.",
        licence=licence,
    )


def test_the_hub_reads_the_scores_that_were_measured(run: Path) -> None:
    write_results(run)
    data = ModelCard(card_of(read_source(run), licence="apache-2.0")).data
    assert (data.model_name, data.license, data.library_name) == ("mine", "apache-2.0", "timm")
    assert (data.pipeline_tag, data.datasets) == ("image-feature-extraction", ["tiny"])
    assert "simclr" in data.tags
    interval = {"chance": 0.1, "test_images": 10_000}
    assert data.eval_results == [
        EvalResult(
            task_type="image-classification",
            task_name=task,
            dataset_type=name,
            dataset_name=name,
            dataset_split=split,
            dataset_args={"fingerprint": fingerprint},
            metric_type=metric,
            metric_name=metric_name,
            metric_value=value,
            metric_args={"interval_95": [value - 0.01, value + 0.01], **interval},
        )
        for task, name, split, fingerprint, metric, metric_name, value in [
            ("nearest neighbours", "cifar10", "test", "abc", "accuracy", "top-1", 0.5521),
            ("fine-tuning 10 %", "cifar10", "test", "abc", "accuracy", "top-1", 0.7),
            ("transfer flowers linear", "flowers", "val", "def", "mean_per_class_accuracy", "mean per class", 0.8),
        ]
    ]


def test_the_hubs_reader_writes_the_same_card_again(run: Path) -> None:
    write_results(run)
    card = ModelCard(card_of(read_source(run)))
    again = ModelCard(str(card))
    assert again.data.to_dict() == card.data.to_dict()
    assert again.text == card.text


def test_readers_see_controls_beside_the_scores_of_the_encoder(run: Path) -> None:
    write_results(run)
    text = card_of(read_source(run))
    assert "| nearest neighbours | **this encoder** | top-1 | 55.2 | 54.2 to 56.2 | 10.0 | 50,000 | 10,000 |" in text
    assert "| nearest neighbours | the same, untrained | top-1 | 33.5 |" in text
    assert "| nearest neighbours | pixels | top-1 | 30.9 |" in text
    assert "`flowers`, split val (fingerprint `def`)" in text


def test_a_card_tells_what_the_encoder_has_seen(run: Path) -> None:
    text = card_of(read_source(run))
    for fact in (
        "(resnet18, stem of CIFAR, width 0.0625)",
        "| data | `tiny`, fingerprint `" + "f" * 64 + "` |",
        "| images seen | 3,584, two views of each |",
        "| updates | 7 |",
        "| images per update | 512 (`global_batch`) |",
        "| epochs | 12 (`schedule.epochs`) |",
        "| temperature | 0.5 (`loss.temperature`) |",
        "mean [0.25, 0.5, 0.75] and std [0.5, 0.25, 0.2]",
        f"sha256 `{weights_sha256(run / 'encoder')}`",
        "No licence is stated.",
    ):
        assert fact in text
    assert "None" not in text.replace("None were measured", "")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda _: None, "no "),
        (lambda run: write_results(run, encoder={"weights_sha256": "0" * 64}), "is of other weights"),
        (lambda run: write_results(run, version=2), "is of another version"),
        (lambda run: write_results(run, scores=[]), "holds none"),
    ],
)
def test_scores_of_anything_else_are_not_in_the_card(run: Path, spoil: Callable[[Path], None], why: str) -> None:
    spoil(run)
    source = read_source(run)
    assert source.scores == ()
    assert why in source.why_no_scores
    text = card_of(source)
    assert "None were measured of these weights." in text
    assert ModelCard(text).data.eval_results is None


def test_an_encoder_alone_has_its_own_scores_and_no_configuration(tmp_path: Path) -> None:
    save_random_encoder(tmp_path / "alone", CIFAR)
    (tmp_path / "alone" / "eval").mkdir()
    content = {
        "format": "diptych-evaluation",
        "version": 1,
        "encoder": {"weights_sha256": weights_sha256(tmp_path / "alone")},
        "scores": SCORES[:1],
        "data": DATA,
    }
    (tmp_path / "alone" / "eval" / "results.json").write_text(json.dumps(content))
    source = read_source(tmp_path / "alone")
    assert [entry.value for entry in source.scores] == [0.5521]
    assert source.config == {}
    assert "global_batch" not in card_of(source)
