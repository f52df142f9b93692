"""Counts samples, classes and sizes of a data set; reads the indices only, never the shards."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.manifest import UNLABELLED, IndexArray, Manifest, Split, load_index, read_manifest
from pipelines.messages import say
from pipelines.tools.label_mixing import label_mixing, mixing_warning

SHOWN_CLASSES = 5


def print_stats(directory: str, *, as_json: bool) -> None:
    """Print what there is to count, and warn on standard error of samples that lie ordered by class.

    Args:
        directory: of the data set, or its URL.
        as_json: print every class, as JSON.

    Raises:
        DataError: the manifest or an index cannot be read.
    """
    manifest = read_manifest(directory)
    counted, warnings = dict[str, dict[str, Any]](), list[str]()
    for name, split in manifest.splits.items():
        samples = load_index(directory, split)
        counted[name] = split_stats(manifest, split, samples)
        if name == "train" and counted[name]["classes"] and (warning := mixing_warning(name, samples)):
            warnings.append(warning)
    whole = {
        field: getattr(manifest, field) for field in ("name", "resize", "whole_shards", "pixels_checked", "statistics")
    }
    if as_json:
        print(json.dumps({**whole, "fingerprint": manifest.fingerprint, "splits": counted}, indent=1))
    else:
        _print_text(manifest, counted)
    for warning in warnings:
        say(f"warning: {warning}")


def split_stats(manifest: Manifest, split: Split, samples: IndexArray) -> dict[str, Any]:
    """Numbers about a split, as JSON has them; `mixing` is described in `label_mixing`."""
    label = samples["label"].astype(np.int64)
    labelled = label[label != UNLABELLED]
    counts = np.bincount(labelled, minlength=len(manifest.classes))
    return {
        "samples": len(samples),
        "unlabelled": len(samples) - len(labelled),
        "shards": len(split.shards),
        "shard_bytes": sum(shard.bytes for shard in split.shards),
        "image_bytes": int(samples["size"].sum(dtype=np.int64)),
        "height": _spread(samples["height"]),
        "width": _spread(samples["width"]),
        "bytes_per_image": _spread(samples["size"]),
        "samples_per_class": _spread(counts),
        "mixing": label_mixing(samples),
        "classes": dict(zip(manifest.classes, counts.tolist(), strict=False)) if len(labelled) else {},
    }


def _spread(values: npt.NDArray[np.integer]) -> dict[str, float]:
    if not len(values):
        return {}
    return {"min": int(values.min()), "median": float(np.median(values)), "max": int(values.max())}


def _print_text(manifest: Manifest, counted: dict[str, dict[str, Any]]) -> None:
    part = "" if manifest.whole_shards else ", not every sample of its shards"
    unchecked = "" if manifest.pixels_checked else ", images not decoded when they were indexed"
    print(f"{manifest.name}: {len(manifest.classes)} classes, resize {manifest.resize}{part}{unchecked}")
    for field, values in manifest.statistics.items():
        print(f"  {field:<20}{'  '.join(f'{value:.4f}' for value in values)}")
    for name, split in counted.items():
        print(f"{name}: {split['samples']:,} samples in {split['shards']:,} shards of {split['shard_bytes']:,} bytes")
        for field in ("height", "width", "bytes_per_image", "samples_per_class"):
            if spread := split[field]:
                shown = f"{spread['min']:,} ... {spread['max']:,}, median {spread['median']:,g}"
                print(f"  {field.replace('_', ' '):<20}{shown}")
        if split["classes"]:
            print(f"  {'mixing':<20}{split['mixing']:.3f}  (1: shards hold all classes alike; near 0: one class each)")
            print(f"  {'classes':<20}{_class_list(split['classes'])}")


def _class_list(classes: dict[str, int]) -> str:
    """The largest and the smallest classes."""
    ranked = [f"{name} {count:,}" for name, count in sorted(classes.items(), key=lambda entry: -entry[1])]
    if len(ranked) <= 2 * SHOWN_CLASSES:
        return ", ".join(ranked)
    return ", ".join([*ranked[:SHOWN_CLASSES], "...", *ranked[-SHOWN_CLASSES:]])
