"""The code of the pages docs/dev/add_a_*.md runs as it is printed, and the pages stay short."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs" / "dev").glob("add_a_*.md"))
MAX_LINES = 40


def of_each_page() -> pytest.MarkDecorator:
  return pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def test_there_is_a_page_for_each_thing_that_is_added() -> None:
  things = {page.stem.removeprefix("add_a_") for page in PAGES}
  assert things == {"teacher", "grader", "tool", "model_family", "stage_or_arm", "benchmark"}


@of_each_page()
def test_its_code_runs(page: pathlib.Path) -> None:
  """In a process of its own, since it adds to the tables of the package."""
  [code] = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
  assert "assert " in code
  command = [sys.executable, "-c", code]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
  assert (done.returncode, done.stderr) == (0, "")


@of_each_page()
def test_it_is_short(page: pathlib.Path) -> None:
  assert len(page.read_text().splitlines()) <= MAX_LINES


@of_each_page()
def test_the_files_that_it_names_exist(page: pathlib.Path) -> None:
  names = re.findall(r"`(?:python )?([\w./]+/[\w.]+\.(?:py|md))`", page.read_text())
  places = (ROOT, ROOT / "score_jax")
  assert names and [name for name in names if not any((place / name).exists() for place in places)] == []
