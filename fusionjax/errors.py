"""The error that a user's input can cause."""


class InputError(ValueError):
    """Something that the user gave (a file, a folder, a run directory, a setting) cannot be used.

    The message is one line: what was expected, what came, what to do. The command line prints it alone
    and exits with 2.
    """
