"""The sections of an experiment's config: every key with its type, range, default, unit and conditions.

A file holds a family of sections and the conditions that are theirs alone; those that several ask for are in
``switches``. ``fedfmd.config.experiment`` puts the sections together and says what is wrong with a document.
"""
