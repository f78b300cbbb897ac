"""Plants faults in the package, one at a time, and says which of them the tests let pass.

    python benchmarks/mutants.py                        all of mutants.toml; hours on two cores
    python benchmarks/mutants.py --only='sampler-*'     the mutants of these names (patterns, with commas between)
    python benchmarks/mutants.py --list                 names, and whether each still applies; runs no test

mutants.toml holds a table for each mutant: the file, the exact old text, which has to stand there once, the new text,
the tests that are known to fail with it, and what it stands for. Work is done in a copy of the checkout in a temporary
folder. The named tests run first. Where they pass, or none is named, all tests run that are near the file: its own test
file, the files that import the module, and the others of its folder. A verdict is one of

    killed              a test fails, and passes without the mutant
    survived            all tests near the file pass
    timed out           the tests do not end in time, and do without the mutant
    does not apply      the old text does not stand there exactly once
    tests fail anyway   the tests do not pass without the mutant either

Exit status 1: more than 5 % survive, or a verdict is one of the last two.
"""

from __future__ import annotations

import argparse
import collections
import ctypes
import dataclasses
import fnmatch
import functools
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from typing import Literal

from descendants import descendants

Verdict = Literal["killed", "survived", "timed out", "does not apply", "tests fail anyway"]

CHECKOUT = pathlib.Path(__file__).resolve().parents[1]
MOST_SURVIVORS = 0.05
SUBREAPER, END_WITH_PARENT = 36, 1  # of Linux's prctl


@dataclasses.dataclass(frozen=True)
class Mutant:
  """A fault to be planted."""

  name: str
  path: str
  old: str
  new: str
  what: str  # it stands for
  tests: tuple[str, ...] = ()

  def planted(self, folder: pathlib.Path) -> str | None:
    """The text of the file with the fault; None: it does not apply."""
    file = folder / self.path
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return text.replace(self.old, self.new) if text.count(self.old) == 1 and self.new != self.old else None


def mutants(pattern: str) -> list[Mutant]:
  """Those of mutants.toml whose names fit one of the patterns."""
  data = tomllib.loads((CHECKOUT / "benchmarks/mutants.toml").read_text(encoding="utf-8"))
  found = [Mutant(**{**one, "tests": tuple(one.get("tests", ()))}) for one in data["mutant"]]
  if twice := [name for name, count in collections.Counter(m.name for m in found).items() if count > 1]:
    sys.exit(f"mutants.toml: two mutants are named {twice[0]!r}; give each its own name")
  return [m for m in found if any(fnmatch.fnmatchcase(m.name, one) for one in pattern.split(","))]


class Checkout:
  """A copy of the checkout, in which mutants are planted and tests run."""

  def __init__(self, folder: pathlib.Path, limit_s: float):
    """`limit_s`: seconds that one run of tests may take."""
    self.folder, self.limit_s = folder, limit_s
    listed = ["git", "-C", str(CHECKOUT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, check=True, capture_output=True, text=True, encoding="utf-8").stdout.split("\0"):
      if name and (CHECKOUT / name).is_file():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(CHECKOUT / name, folder / name)
    folder.chmod(0o755)  # sandboxed workers of another user read the package
    self.sound = functools.cache(self._passes)  # of a set of tests, without a mutant

  def judge(self, mutant: Mutant) -> Verdict:
    """What the tests say of a mutant."""
    text = mutant.planted(self.folder)
    if text is None:
      return "does not apply"
    file = self.folder / mutant.path
    before = file.read_text(encoding="utf-8")
    for tests in filter(None, (mutant.tests, self._near(mutant.path))):
      file.write_text(text, encoding="utf-8")
      try:
        passed = self._passes(tests)
      finally:
        file.write_text(before, encoding="utf-8")
      if not passed:
        if not self.sound(tests):
          return "tests fail anyway"
        return "killed" if passed is False else "timed out"
    return "survived"

  def _near(self, path: str) -> tuple[str, ...]:
    """The tests near a file, its own test file first."""
    *room, name = pathlib.PurePath(path).with_suffix("").parts[1:]
    package = ".".join(["score_jax", *room])
    imports = re.compile(rf"{package}\.{name}\b|from {re.escape(package)} import [^\n]*\b{name}\b")
    tests = sorted((self.folder / "tests").rglob("test_*.py"))
    mirrored = self.folder.joinpath("tests", *room)
    importing = [t for t in tests if imports.search(t.read_text(encoding="utf-8"))]
    beside = [t for t in tests if t.parent == mirrored] if room or not importing else []  # at the top they are many
    own = [t for t in tests if t == mirrored / f"test_{name}.py"]
    return tuple(str(t.relative_to(self.folder)) for t in dict.fromkeys([*own, *importing, *beside]))

  def _passes(self, tests: Sequence[str]) -> bool | None:
    """Whether these tests pass; None: they do not end in time."""
    # No bytecode: a mutant of the same size within the same second would pass for the file before it.
    environ = {**os.environ, "PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-n0", "-q", "-x", "-p", "no:cacheprovider", *tests]
    prctl = ctypes.CDLL(None).prctl
    process = subprocess.Popen(
      command,
      cwd=self.folder,
      env=environ,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
      preexec_fn=lambda: prctl(END_WITH_PARENT, signal.SIGKILL),
    )
    try:
      return process.wait(self.limit_s) == 0
    except subprocess.TimeoutExpired:
      return None
    finally:
      end_all()


def end_all() -> None:
  """Ends all that was started: workers and sandboxes whose parent has ended are children of this process by now."""
  while left := descendants(os.getpid()):
    for pid in left:
      try:
        os.kill(pid, signal.SIGKILL)
      except ProcessLookupError:
        continue
    try:
      os.waitpid(-1, 0)
    except ChildProcessError:
      return


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--only", default="*", help="patterns of names, with commas between")
  parser.add_argument("--list", action="store_true", help="run no test")
  parser.add_argument("--limit", type=float, default=900.0, help="seconds that one run of tests may take")
  args = parser.parse_args()
  chosen = mutants(args.only)
  if not chosen:
    sys.exit(f"--only={args.only}: no mutant has such a name; see --list")
  if args.list:
    applies = {m.name: m.planted(CHECKOUT) is not None for m in chosen}
    for m in chosen:
      print(f"{m.name:45} {'' if applies[m.name] else 'DOES NOT APPLY '}{m.what}")
    sys.exit(0 if all(applies.values()) else 1)
  ctypes.CDLL(None).prctl(SUBREAPER, 1)
  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  found: collections.Counter[Verdict] = collections.Counter()
  with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
    checkout = Checkout(pathlib.Path(folder).resolve(), args.limit)
    for m in chosen:
      start = time.monotonic()
      verdict = checkout.judge(m)
      found[verdict] += 1
      print(f"{verdict:17} {m.name:45} {time.monotonic() - start:5.0f} s  {m.what}", flush=True)
  print(f"{len(chosen)} mutants: {', '.join(f'{count} {verdict}' for verdict, count in found.items())}")
  unclear = found["does not apply"] + found["tests fail anyway"]
  sys.exit(1 if unclear or found["survived"] > MOST_SURVIVORS * len(chosen) else 0)


if __name__ == "__main__":
  main()
