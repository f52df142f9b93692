"""The paper's linear evaluation: a linear layer on the frozen encoder, by SGD on random crops and flips.

Chen et al. 2020, appendix B.6; the schedule, half a cosine without warm-up, is the reference code's. The encoder stays
as it is, BatchNorm's statistics included. `linear` reaches about the same number from cached features in seconds.
"""

from eval.classifier import Classifier, Recipe
from eval.classifier_run import Training, fitting_batch
from eval.classifier_score import crop_flip_views, own_encoder, precision_of, reading_of, score_classifier
from eval.evaluation import Evaluation
from eval.scores import ScoreBook, Task
from pipelines.order import steps_per_epoch


def score_linear_sgd(evaluation: Evaluation, book: ScoreBook) -> None:
    """Train on all of train and score on test.

    Raises:
        EvaluationError: the batch is too small, the loss is not finite, or something cannot be written.
        DataError: an image is damaged.
    """
    subject, config, description = evaluation.subject, evaluation.subject.config.linear_sgd, evaluation.description
    train, name = subject.train, "linear_sgd"
    batch = fitting_batch(name, config.batch, len(train))
    recipe = Recipe(
        steps=config.epochs * steps_per_epoch(len(train), batch),
        batch=batch,
        peak_lr=config.base_lr * batch / 256,
        frozen=True,
        views=crop_flip_views(evaluation),
        precision=precision_of(evaluation, config.precision),
        seed=evaluation.seed,
    )
    training = Training(
        name=name,
        split=train,
        data=reading_of(evaluation, train),
        recipe=recipe,
        start=evaluation.weights_sha256,
    )

    def network() -> Classifier:
        encoder = own_encoder(evaluation, pretrained=True)
        return Classifier(encoder, encoder.num_features, evaluation.classes, description, recipe)

    task = Task(protocol=name, settings=training.settings, test=subject.test, n_train=len(train))
    score_classifier(evaluation, book, task, training, network)
