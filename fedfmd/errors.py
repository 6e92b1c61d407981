"""The two exceptions that the command line turns into a line of text instead of a traceback."""


class UserError(Exception):
    """Bad input: its text is one line that names the key or file, the value and what is allowed.

    The command line prints the text without a traceback and exits with code 2.
    """


class RunError(Exception):
    """A run that cannot go on, through no mistake in its input: everything computed so far is kept.

    The command line prints the text, says how to resume, and exits with code 1.
    """
