"""The one exception that is meant for people."""


class InputError(ValueError):
    """Input that cannot be used.

    The message says, in this order, what was expected, what came, and what to do. The command line
    prints it without a traceback and leaves with exit code 2.
    """
