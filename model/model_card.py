"""The README.md of an export: what the encoder is, what it has seen, what it scores, how it is loaded.

The block of YAML on top is what the Hugging Face hub reads; its scores are those of results.json, never typed in.
"""

import re
from itertools import groupby
from typing import Any

import yaml

from model.export_source import ExportSource, ReportedScore

_DATASET_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_PROTOCOLS = {
    "knn": "nearest neighbours",
    "linear": "linear classifier on frozen features (L-BFGS)",
    "linear_sgd": "linear classifier on frozen features (SGD)",
    "finetune": "fine-tuning",
    "supervised": "supervised from scratch",
    "transfer": "transfer",
    "probes": "linear probe",
}
_REPRESENTATIONS = {
    "encoder": "**this encoder**",
    "random_init": "the same, untrained",
    "raw_pixels": "pixels",
}
_SETTINGS = (
    ("images per update", "global_batch"),
    ("epochs", "schedule.epochs"),
    ("optimizer", "optimizer.name"),
    ("learning rate", "optimizer.base_lr"),
    ("scaling of the rate", "optimizer.lr_scaling"),
    ("weight decay", "optimizer.weight_decay"),
    ("loss", "loss.name"),
    ("temperature", "loss.temperature"),
    ("projection head", "head.kind"),
    ("length of the projection", "head.dim"),
    ("size of views", "views.size"),
    ("formulas of views", "views.reference"),
    ("least area of a crop", "views.crop_area_min"),
    ("strength of colour jitter", "views.jitter_strength"),
    ("probability of blur", "views.blur_probability"),
    ("precision", "precision"),
    ("seed", "seed"),
)
"""Rows of the card, and fields of config.yaml."""


def model_card(
    source: ExportSource, *, name: str, library: str, usage: str, input_note: str, checked: str, licence: str
) -> str:
    """Write the card.

    Args:
        source: the encoder and what is known of it.
        name: title, and the model's name in the index of scores.
        library: as the hub knows it.
        usage: Python that loads the encoder.
        input_note: who normalises and crops, in this format.
        checked: what the export was compared with, in one sentence.
        licence: identifier of the hub's, such as apache-2.0; unknown if nobody has chosen one.
    """
    header = yaml.safe_dump(_metadata(source, name, library, licence), sort_keys=False, allow_unicode=True)
    description = source.description
    encoder = description.encoder
    details = [f"stem of {'CIFAR' if encoder.stem == 'cifar' else 'ImageNet'}" if _is_resnet(source) else ""]
    details += [f"width {encoder.width:g}" if encoder.width != 1 else "", "GroupNorm" * (encoder.norm == "group")]
    details += [f"{key} = {value}" for key, value in encoder.arguments.items()]
    architecture = ", ".join([encoder.name, *filter(None, details)])
    mean, std = list(description.mean), list(description.std)
    share = f"{description.crop_share:g} of the shorter side" if description.crop_share < 1 else "as large as it can be"
    sections = [
        f"---\n{header}---\n",
        f"# {name}\n",
        f"An image encoder ({architecture}) that was pretrained without labels on `{description.data_name}` with "
        "SimCLR ([Chen et al. 2020](https://arxiv.org/abs/2002.05709)) by Diptych. It turns an image into a vector h: "
        "the representation before the projection head, which is not part of it.\n",
        f"## Use\n\n```python\n{usage}\n```\n\n{checked}\n",
        "## Input\n\n"
        f"RGB in [0, 1], the central square of the image ({share}), resized to "
        f"{description.image_size} x {description.image_size} pixels, bilinear and anti-aliased; then (image - mean) / "
        f"std with mean {mean} and std {std}. {input_note}\n",
        f"## Scores\n\n{_score_section(source)}\n",
        f"## Pretraining\n\n{_pretraining_section(source)}\n",
        f"## Limitations\n\n{_limitations(source, licence)}\n",
    ]
    return "\n".join(sections)


def _metadata(source: ExportSource, name: str, library: str, licence: str) -> dict[str, Any]:
    description = source.description
    metadata: dict[str, Any] = {
        "license": licence,
        "library_name": library,
        "pipeline_tag": "image-feature-extraction",
        "tags": ["simclr", "self-supervised-learning", "diptych"],
    }
    if _DATASET_ID.fullmatch(description.data_name):
        metadata["datasets"] = [description.data_name]
    ours = [score for score in source.scores if _is_of_encoder(score)]
    if ours:
        metadata["model-index"] = [{"name": name, "results": [_result(score) for score in ours]}]
    return metadata


def _is_of_encoder(score: ReportedScore) -> bool:
    """Neither a control nor another network nor a probe of something else than classes."""
    return score.representation == "encoder" and score.protocol not in ("supervised", "probes")


def _result(score: ReportedScore) -> dict[str, Any]:
    low, high = score.interval
    is_top1 = score.metric == "top1"
    return {
        "task": {"type": "image-classification", "name": _title(score)},
        "dataset": {
            "type": score.data_name,
            "name": score.data_name,
            "split": score.split,
            "args": {"fingerprint": score.data_fingerprint},
        },
        "metrics": [
            {
                "type": "accuracy" if is_top1 else "mean_per_class_accuracy",
                "value": score.value,
                "name": "top-1" if is_top1 else "mean per class",
                "args": {"interval_95": [low, high], "chance": score.chance, "test_images": score.n_test},
            }
        ],
    }


def _score_section(source: ExportSource) -> str:
    if not source.scores:
        return "None were measured of these weights."
    lines = []
    titles = list(dict.fromkeys(map(_title, source.scores)))
    by_data = sorted(source.scores, key=lambda score: (_data_of(score), titles.index(_title(score))))
    for (data, split, fingerprint), scores in groupby(by_data, key=_data_of):
        rows = [
            f"| {_title(score)} | {_REPRESENTATIONS.get(score.representation, score.representation)} | "
            f"{'top-1' if score.metric == 'top1' else 'mean per class'} | {100 * score.value:.1f} | "
            f"{100 * score.interval[0]:.1f} to {100 * score.interval[1]:.1f} | {100 * score.chance:.1f} | "
            f"{score.n_train:,} | {score.n_test:,} |"
            for score in scores
        ]
        lines += [
            f"`{data}`, split {split} (fingerprint `{fingerprint[:16]}`), per cent, beside the controls:\n",
            "| protocol | features | metric | score | 95 % interval | chance | labelled images | test images |",
            "|---|---|---|---:|---|---:|---:|---:|",
            *rows,
            "",
        ]
    lines.append("Intervals are percentile bootstraps over the test images; they know nothing of other seeds.")
    return "\n".join(lines)


def _data_of(score: ReportedScore) -> tuple[str, str, str]:
    return score.data_name, score.split, score.data_fingerprint


def _title(score: ReportedScore) -> str:
    return " ".join(filter(None, [_PROTOCOLS.get(score.protocol, score.protocol), score.variant]))


def _pretraining_section(source: ExportSource) -> str:
    description = source.description
    rows = [
        ("data", f"`{description.data_name}`, fingerprint `{description.data_fingerprint}`"),
        ("images seen", f"{description.images_seen:,}, two views of each"),
        ("updates", f"{description.step:,}"),
    ]
    for title, field in _SETTINGS:
        value: Any = source.config
        for part in field.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            rows.append((title, f"{value} (`{field}`)"))
    rows += [
        ("configuration", f"sha256 `{description.config_sha256}`"),
        ("weights of Diptych's encoder file", f"sha256 `{source.weights_sha256}`"),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {title} | {value} |" for title, value in rows)])


def _limitations(source: ExportSource, licence: str) -> str:
    points = [
        f"It has seen `{source.description.data_name}` and nothing else; on other images its h may mean little.",
        "It gives features, no classes: a classifier has to be trained on them, with labels.",
        f"It was trained at {source.description.image_size} pixels; scores at other sizes were not measured.",
        "What the training images are biased towards, the features are too; that was not measured.",
    ]
    if licence == "unknown":
        points.append("No licence is stated. Who publishes it must fill in `license` above, as the data allow.")
    return "\n".join(f"- {point}" for point in points)


def _is_resnet(source: ExportSource) -> bool:
    return re.fullmatch(r"resnet\d+", source.description.encoder.name) is not None
