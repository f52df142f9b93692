"""The projection head that an encoder was pretrained with, from the run's last checkpoint."""

from torch import nn

from eval.errors import EvaluationError
from eval.evaluation import Evaluation
from eval.ranks import from_rank_0
from model.heads import build_head
from train.checkpoint import load_latest


def pretrained_head(evaluation: Evaluation) -> nn.Sequential:
    """The whole head, in eval mode on the host: (B, features) -> (B, dim). All ranks call this together.

    Raises:
        EvaluationError: there is no run, or none of its checkpoints is of the encoder.
        RunError: checkpoints cannot be read.
    """
    run, directory = evaluation.subject.run, evaluation.subject.output.parent / "checkpoints"
    if run is None:
        raise EvaluationError(
            f"{evaluation.subject.encoder_dir}: an encoder alone, without the head that it was trained with; give the "
            "run directory"
        )
    checkpoint = from_rank_0(lambda: load_latest(directory))
    if checkpoint is None:
        raise EvaluationError(f"{directory}: no checkpoint, which alone has the head; restore one")
    if checkpoint.step != evaluation.description.step:
        raise EvaluationError(
            f"{directory}: the last checkpoint is of step {checkpoint.step:,}, the encoder of step "
            f"{evaluation.description.step:,}; resume the run, which exports the encoder again"
        )
    head = build_head(run.head, evaluation.encoder.num_features)
    prefix = "head."
    state = {name: tensor for name, tensor in checkpoint.model.items() if name.startswith(prefix)}
    head.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in state.items()})
    return head.eval()


def first_head_layer(evaluation: Evaluation) -> nn.Sequential:
    """The head up to its first ReLU: linear, BatchNorm, ReLU; (B, features) -> (B, features).

    Raises:
        EvaluationError: the head has no hidden layer; and as `pretrained_head`.
        RunError: checkpoints cannot be read.
    """
    run = evaluation.subject.run
    if run is not None and run.head.kind != "mlp":
        raise EvaluationError(
            f"finetune.recipe = v2: head.kind = {run.head.kind} has no hidden layer to keep; use recipe v1"
        )
    layers = list(pretrained_head(evaluation))
    activations = [number for number, layer in enumerate(layers) if isinstance(layer, nn.ReLU)]
    return nn.Sequential(*layers[: activations[0] + 1])
