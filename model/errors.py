"""The one error of this folder that a user can cause and mend."""


class ModelError(Exception):
    """Something is wrong with what was asked of the model or with an encoder file.

    The message is one line: which field or file, what is wrong, what to do. Entry points print it and exit 2.
    """
