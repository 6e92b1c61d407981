"""The one exception that stands for a mistake of the user rather than of the program."""


class UserError(Exception):
    """Bad input: its text is one line that names the key or file, the value and what is allowed.

    The command line prints the text without a traceback and exits with code 2.
    """
