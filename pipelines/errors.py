"""The one error of this folder that a user can cause and mend."""


class DataError(Exception):
    """Something is wrong with the data or with what was asked of it.

    The message is one line: which file, field or sample, what is wrong, what to do. Entry points print it and exit 2.
    """
