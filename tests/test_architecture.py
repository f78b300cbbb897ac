"""The pictures of docs/dev/architecture.md are those of the source."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
PAGE = ROOT / "docs" / "dev" / "architecture.md"


def draw(*arguments: str) -> subprocess.CompletedProcess[str]:
  command = [sys.executable, str(ROOT / "docs/dev/draw.py"), *arguments]
  return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_page_has_the_pictures_of_the_source() -> None:
  done = draw("--check")
  assert (done.returncode, done.stderr) == (0, "")


def test_what_is_drawn_is_what_the_page_shows() -> None:
  pictures = re.findall(r"```mermaid\n(.*?)\n```", PAGE.read_text(), re.DOTALL)
  assert len(pictures) == 2
  assert draw().stdout == "\n\n".join(pictures) + "\n"


def test_the_rooms_of_the_package_are_all_there() -> None:
  rooms = {path.parent.name for path in (ROOT / "score_jax").glob("*/__init__.py")}
  assert len(rooms) > 10
  assert rooms <= set(re.findall(r'^    (\w+)\["\w+/"\]$', PAGE.read_text(), re.MULTILINE))


def test_the_files_that_the_page_names_exist() -> None:
  names = re.findall(r"`([\w/]+\.py)`", PAGE.read_text())
  assert len(names) > 10
  assert [name for name in names if not any((ROOT / at / name).exists() for at in (".", "score_jax"))] == []
