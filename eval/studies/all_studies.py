"""The study that is asked for."""

from eval.studies.batch_studies import batch_epochs, lr_scaling
from eval.studies.config import StudyConfig
from eval.studies.loss_studies import loss, temperature
from eval.studies.network_studies import faster, head, width_depth
from eval.studies.study import Study
from eval.studies.view_studies import augmentations, colour
from train.config import PretrainConfig


def open_study(config: StudyConfig, base: PretrainConfig) -> Study:
    """The study that is asked for, around the base configuration.

    Raises:
        EvaluationError: a choice of cells cannot be read, or is unknown.
    """
    match config.study:
        case "augmentations":
            return augmentations(config)
        case "colour":
            return colour(config)
        case "batch_epochs":
            return batch_epochs(config, base)
        case "lr_scaling":
            return lr_scaling(config, base)
        case "temperature":
            return temperature(config)
        case "loss":
            return loss()
        case "head":
            return head(config)
        case "faster":
            return faster()
        case _:
            return width_depth(config, base)
