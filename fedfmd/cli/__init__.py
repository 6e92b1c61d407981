"""The command line: a file for each command, or for those that belong together, in the order of ``app``.

What a command does once its arguments are read, and what takes long to import, is in ``actions``.
"""
