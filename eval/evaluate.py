"""Score an encoder, beside the controls that it has to beat.

    python -m eval.evaluate RUN_DIR --protocols knn,linear
    accelerate launch --multi_gpu --num_processes 8 -m eval.evaluate RUN_DIR --protocols knn,linear

Prints a table and writes RUN_DIR/eval/results.json after each score; the same command again goes on after the last.
`--help` lists every field.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from eval.config import EvaluateConfig
from eval.errors import EvaluationError
from eval.results import say, table
from eval.subject import open_subject
from model.errors import ModelError
from pipelines.errors import DataError
from train.arguments import parse
from train.distributed import environment_rank, fail, share_cores
from train.errors import RunError

if TYPE_CHECKING:
    from eval.evaluation import Evaluation
    from eval.scores import ScoreBook


def main() -> None:
    """Refuse what is wrong before torch is imported, then evaluate."""
    share_cores()
    try:
        config = parse(EvaluateConfig, name_run_dir(sys.argv[1:]), prog="evaluate")
        subject = open_subject(config)
        from eval.evaluation import begin, circumstances
        from eval.ranks import leave_ranks
        from eval.scores import ScoreBook

        evaluation = begin(subject)
        encoder = asdict(evaluation.description) | {"weights_sha256": evaluation.weights_sha256}
        book = ScoreBook(subject.output, encoder, circumstances())
        for protocol in config.protocol_names:
            run_protocol(protocol, evaluation, book)
        if environment_rank() == 0:
            print(f"\n{title(evaluation)}\n\n{table(book.asked)}", flush=True)
            say(f"\nwritten to {subject.output / 'results.json'}")
        leave_ranks()
    except (EvaluationError, RunError, DataError, ModelError) as error:
        fail("evaluate", error, show=environment_rank() == 0)


def run_protocol(protocol: str, evaluation: "Evaluation", book: "ScoreBook") -> None:
    """Put a protocol's scores into the book.

    Raises:
        EvaluationError: it cannot be run on this encoder or data.
        ModelError: the encoder is damaged.
        DataError: an image is damaged.
    """
    from eval.finetune import score_finetune
    from eval.knn import score_knn
    from eval.linear import score_linear
    from eval.linear_sgd import score_linear_sgd
    from eval.supervised import score_supervised
    from eval.transfer import score_transfer

    if protocol == "knn":
        score_knn(evaluation, book)
    elif protocol == "linear":
        score_linear(evaluation, book)
    elif protocol == "linear_sgd":
        score_linear_sgd(evaluation, book)
    elif protocol == "finetune":
        score_finetune(evaluation, book)
    elif protocol == "supervised":
        score_supervised(evaluation, book)
    elif protocol == "transfer":
        score_transfer(evaluation, book)


def title(evaluation: "Evaluation") -> str:
    """What the numbers of the table are."""
    test, step = evaluation.subject.test, evaluation.description.step
    return (
        f"{test.manifest.name}, split {test.name}: answered rightly of {len(test):,} images, in per cent ± half the 95 % "
        f"interval; encoder of step {step:,}"
    )


def name_run_dir(arguments: Sequence[str]) -> list[str]:
    """Put `--run_dir=` before the first argument that is neither a flag nor a flag's value."""
    named = list(arguments)
    for i, (before, word) in enumerate(zip(["", *named], named, strict=False)):
        is_value = before.startswith("--") and "=" not in before
        if not word.startswith("-") and not is_value:
            named[i] = f"--run_dir={word}"
            break
    return named


if __name__ == "__main__":
    main()
