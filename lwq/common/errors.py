"""The one exception that means "the input is wrong, nothing was started"."""


class InputError(ValueError):
    """Raised before any expensive work; the message names the value, the limit, the place and the way out.

    The command line prints it without a traceback and leaves with exit code 2.
    """
