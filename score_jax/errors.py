"""Errors that a user can fix. The message is one line: "setting = value: what is wrong; what to do".

Bad user input raises UserError everywhere; docstrings do not repeat this.
"""


class UserError(Exception):
  """Bad user input (config, file, checkpoint, workdir); ends a run with status 1."""


class UsageError(UserError):
  """A wrong command line; ends a run with status 2."""
