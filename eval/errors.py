"""The one error of this folder that a user can cause and mend."""


class EvaluationError(Exception):
    """What was asked cannot be evaluated.

    The message is one line: which field, file or split, what is wrong, what to do. Entry points print it and exit 2.
    """
