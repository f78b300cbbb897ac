"""The errors that a user can mend: one line, the thing, the value, the remedy."""


class UserError(Exception):
  """Bad input from outside (config, file, checkpoint, workdir); ends a run with status 1."""


class UsageError(UserError):
  """A wrong command line; ends a run with status 2."""
