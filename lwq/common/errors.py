"""Two exceptions: the input is wrong and nothing was started, or work that had begun broke and what
is done is kept.
"""


class InputError(ValueError):
    """Raised before any expensive work; the message names the value, the limit, the place and the
    way out.

    The command line prints it without a traceback and leaves with exit code 2.
    """


class RunError(RuntimeError):
    """Raised where work broke on the way; what was measured until then is kept, and the same
    command goes on from there.

    The command line prints it without a traceback and leaves with exit code 1.
    """


class LimitSpent(RunError):
    """Raised by an objective whose forward passes are spent; a search returns its best so far."""
