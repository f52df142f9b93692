"""The one error of this folder that a user can cause and mend."""


class RunError(Exception):
    """A run cannot start or go on.

    The message is one line: which field, file or rank, what is wrong, what to do. Entry points print it and exit 2.
    """
