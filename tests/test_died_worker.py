"""A test that ends its interpreter ends the suite, red."""

from __future__ import annotations

import pathlib
import subprocess
import sys

from tests.documents import ROOT


def test_a_worker_that_dies_ends_the_suite(tmp_path: pathlib.Path) -> None:
  """By this project's own settings; with those of xdist alone the suite would wait for ever."""
  (tmp_path / "test_a_dies.py").write_text("import os\n\ndef test_dies(): os.abort()\n\ndef test_next(): pass\n")
  (tmp_path / "test_b_lives.py").write_text("def test_lives(): pass\n")
  settings = ("-c", str(ROOT / "pyproject.toml"), f"--rootdir={tmp_path}", "--numprocesses=2", "-p", "no:cacheprovider")
  command = [sys.executable, "-m", "pytest", "-q", *settings, str(tmp_path)]
  done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
  assert done.returncode == 1, done.stdout
  assert "crashed while running 'test_a_dies.py::test_dies'" in done.stdout
