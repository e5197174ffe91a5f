"""The one error that users see."""


class TutelageError(ValueError):
    """Something in what the user gave is wrong.

    The message is one line: it names the thing, the value and the remedy. The command line prints it and exits
    with code 2; nothing is left half written.
    """
