"""Shared by the commands: the --config and --workdir flags, one-line errors, exit statuses.

An unknown config key is rejected with the nearest known one.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from score_jax import limits
from score_jax.config import find_config_file
from score_jax.errors import UsageError, UserError
from score_jax.runtime.backend import keep_freed_memory, skip_absent_tpu
from score_jax.runtime.interrupt import RunInterrupted
from score_jax.text import escape_unencodable_output, replace_surrogates

CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file, e.g. configs/quickstart.py or …:smoke")
#: keeps compiled programs for later runs; the environment overrides these
COMPILATION_CACHE_ENV = {
  "JAX_COMPILATION_CACHE_DIR": str(pathlib.Path.home() / ".cache" / "score_jax" / "compiled"),
  "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
}
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, local or gs://; default runs/<name of the config>")


def run_command(run: Callable[[ConfigDict, str], None]) -> None:
  """Runs `run(config, workdir)` from the command line; exits 1 on a UserError, 2 for wrong usage.

  After a signal it exits with the status that a shell gives that signal.
  """

  keep_freed_memory()
  escape_unencodable_output()
  set_jax_environment()

  def main(argv: Sequence[str]) -> None:
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs with tracebacks what it also raises
    if len(argv) > 1:
      raise UsageError(f"unexpected argument {argv[1]!r}; options are written --name=value")
    name = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"]).split(":")[0]).stem
    limits.check_numbers(CONFIG.value)
    run(CONFIG.value, WORKDIR.value or f"runs/{name}")

  try:
    app.run(main, flags_parser=_parse)
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2 if isinstance(error, UsageError) else 1)
  except RunInterrupted as stopped:
    print(f"stopped by {stopped.signal}: everything up to here is kept, the same command goes on", file=sys.stderr)
    raise


def set_jax_environment() -> None:
  """Sets what JAX reads from the environment when it is imported; what the user has set stays."""
  for name, value in COMPILATION_CACHE_ENV.items():
    os.environ.setdefault(name, value)
  skip_absent_tpu()


def flatten_dict(data: Any, prefix: str = "") -> dict[str, Any]:
  """Nested dictionaries as one, with dotted keys."""
  if not isinstance(data, dict):
    return {prefix: data}
  return {
    k: v for name, value in data.items() for k, v in flatten_dict(value, f"{prefix}.{name}" if prefix else name).items()
  }


def _parse(argv: list[str]) -> list[str]:
  """Parses absl's flags; rejects an unknown config key in one line that names the nearest.

  Raises:
    UsageError: the command line cannot be understood.
  """
  argv = _join_config_flag(argv)
  if unsound := next((replace_surrogates(a) for a in argv if replace_surrogates(a) != a), None):
    raise UsageError(f"{unsound}: this argument is not in UTF-8; write it so, and rename files whose names are not")
  if any(a in ("--help", "-help", "-h") for a in argv):
    _help()
  if any(a.startswith("--help") for a in argv):
    return flags.FLAGS(argv)
  path = next((a.removeprefix("--config=") for a in argv if a.startswith("--config=")), "")
  if not path:
    raise UsageError("--config=FILE is missing; try --config=configs/quickstart.py")
  try:
    found = find_config_file(path)
  except UserError as error:
    raise UsageError(f"--{error}") from error
  argv = [f"--config={found}" if a == f"--config={path}" else a for a in argv]
  try:
    return flags.FLAGS(argv)
  except (flags.Error, AttributeError, KeyError, ValueError, TypeError, OSError) as error:
    raise UsageError(_unknown_key_message(argv, found) or _one_line(str(error))) from error


def _help() -> NoReturn:
  """Prints the command's docstring and flags; absl itself leaves out flags of other modules and exits 1."""
  for name in ("config", "workdir"):
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
  app.usage(shorthelp=True, writeto_stdout=True)
  sys.exit(0)


def _join_config_flag(argv: Sequence[str]) -> list[str]:
  """The arguments with `--config FILE` joined to `--config=FILE`."""
  if "--config" not in argv[:-1]:
    return list(argv)
  at = list(argv).index("--config")
  return [*argv[:at], f"--config={argv[at + 1]}", *argv[at + 2 :]]


def _unknown_key_message(argv: Sequence[str], path: str) -> str:
  """The message about the first override without a key in the config file; empty if all have one."""
  overrides = [a.removeprefix("--config.").split("=")[0] for a in argv if a.startswith("--config.")]
  try:
    config: Any = flags.FLAGS["config"].parser.parse(path)
    known = list(flatten_dict(json.loads(config.to_json_best_effort())))
  except (TypeError, ValueError, OSError):  # the file itself is at fault
    return ""
  for key in overrides:
    if key not in known and not any(k.startswith(f"{key}.") for k in known):
      nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
      return f"--config.{key}: there is no such key; the nearest is {nearest[0]}"
  return ""


def _one_line(message: str) -> str:
  """The message of absl or ml_collections in one line, without the traceback that ml_collections adds."""
  lines = [line.strip() for line in message.splitlines() if line.strip()]
  return lines[-1] if "Traceback" in message else " ".join(lines)
