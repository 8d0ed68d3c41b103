"""The one exception that is meant for people, and checks of numbers that raise it."""

import math


class InputError(ValueError):
    """Input that cannot be used.

    The message says, in this order, what was expected, what came, and what to do. The command line
    prints it without a traceback and leaves with exit code 2.
    """


def refuse_below_one(name: str, value: int) -> None:
    """Check a number of steps or items.

    Raises:
        InputError: it is below one.
    """
    if value < 1:
        raise InputError(f"Expected {name} of 1 or more, got {value}. Raise it.")


def refuse_no_rate(name: str, value: float) -> None:
    """Check a step size.

    Raises:
        InputError: it is not above 0 or no finite number.
    """
    if not 0 < value < math.inf:
        raise InputError(f"Expected {name} above 0, got {value}. Raise it.")


def refuse_negative(name: str, value: float) -> None:
    """Check a rate or a bound.

    Raises:
        InputError: it is negative or no finite number.
    """
    if not 0 <= value < math.inf:
        raise InputError(f"Expected {name} of 0 or more, got {value}. Raise it.")
