"""What each rank of a pool evaluates: its part of what one rank would have whole."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eval.controls import raw_pixels
from eval.errors import EvaluationError
from eval.feature_files import load_features, save_features
from eval.features import LabelledFeatures, extract
from eval.knn import Neighbours, choose_vote, find_neighbours
from eval.linear import answer_linear
from eval.ranks import from_rank_0, gather_rows, part_of, total
from model.collectives import rank
from pipelines.config import DataConfig
from pipelines.manifest import open_split

CPU = torch.device("cpu")


def own(whole: LabelledFeatures) -> LabelledFeatures:
    """This rank's part."""
    rows = part_of(len(whole.labels)).rows
    return LabelledFeatures(features=whole.features[rows], labels=whole.labels[rows])


def linear_on_ranks(train: LabelledFeatures, test: LabelledFeatures, classes: int) -> tuple[Tensor, dict[str, Any]]:
    """Predictions and details."""
    answer = answer_linear(own(train), own(test), classes, CPU)
    return answer.predictions, answer.details


def neighbours_on_ranks(memory: LabelledFeatures, queries: Tensor, k: int) -> Neighbours:
    return find_neighbours(own(memory), queries, k, CPU)


def vote_on_ranks(
    train: LabelledFeatures, ks: list[int], temperatures: list[float], classes: int
) -> tuple[int, float, float]:
    return choose_vote(own(train), ks, temperatures, classes, CPU)


def put_together(whole: Tensor) -> tuple[Tensor, Tensor]:
    """Gathered from unequal parts, and the sum of what each adds."""
    return gather_rows(whole[part_of(len(whole)).rows]), total(torch.tensor([1.0 + rank(), 10.0]))


def asked_of_rank_0(fail: bool) -> str:
    """What every rank hears, be it an answer or an error."""

    def answer() -> str:
        if fail:
            raise EvaluationError("nothing there")
        return f"from rank {rank()}"

    try:
        return from_rank_0(answer)
    except EvaluationError as error:
        return f"refused: {error}"


def kept_features(shards: str, path: str) -> tuple[Tensor, Tensor, bool]:
    """Features of train that were extracted, then those read back, gathered; whether another key finds nothing."""
    split = open_split(shards, "train")
    extracted = extract(split, DataConfig(canvas=32), 16, {"pixels": raw_pixels}, batch=7, device=CPU)["pixels"]
    save_features(Path(path), "key", split, extracted)
    loaded = load_features(Path(path), "key", split)
    assert loaded is not None
    assert loaded.labels.tolist() == extracted.labels.tolist()
    other = load_features(Path(path), "another", split)
    return gather_rows(extracted.features), gather_rows(loaded.features), other is None
