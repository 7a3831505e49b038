"""What a user's mistake raises, and what a user should know although the work goes on."""


class UnclipError(Exception):
    """A mistake that its maker can mend; the message is one line: what was given, what was expected, what to do.

    Command lines print it without a traceback and exit with code 1.
    """


class UnclipWarning(UserWarning):
    """Something was done otherwise than asked: a prompt was cut, a sample skipped. Command lines print it as one line."""
