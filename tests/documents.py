"""What stands in the documents that users read: their commands, tables and quoted names."""

from __future__ import annotations

import pathlib
import re
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent
NAMED = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "launch/README.md")
DOCUMENTS = sorted([*(ROOT / name for name in NAMED), *(ROOT / "docs").rglob("*.md")])

#: what begins a command that stands in the midst of text
COMMAND = re.compile(
  r"(?:\w+=\S+ )*(?:\S*python3? (?:-m|-c|\w+/)|(?:pip|bash|tensorboard|vllm|sbatch|hf) |launch/\S+ )"
)


class Shown(NamedTuple):
  """A command as a document shows it."""

  text: str
  document: pathlib.Path
  near: str  # what stands around it


def commands() -> list[Shown]:
  """Those of all documents: of sh blocks, where && and & end one, and of text."""
  return [shown for path in DOCUMENTS for shown in commands_of(path)]


def commands_of(path: pathlib.Path) -> list[Shown]:
  text = path.read_text()
  found: list[tuple[int, str]] = []
  for block in re.finditer(r"```sh\n(.*?)```", text, re.DOTALL):
    lines = [line for line in block[1].splitlines() if not line.startswith("#")]
    found += [(block.start(), one.strip()) for line in lines for one in re.split(r" && | &$", line) if one.strip()]
  prose = re.sub(r"```.*?```", lambda m: " " * len(m[0]), text, flags=re.DOTALL)
  for span in re.finditer(r"`([^`\n]+(?:\n[^`\n]+)?)`", prose):
    one = span[1].replace(r"\|", "|").replace("\n", " ")
    if COMMAND.match(one.rpartition(" | ")[2]):
      found.append((span.start(), one))
  return [Shown(one, path, text[max(at - 400, 0) : at + 600]) for at, one in found]


def overrides() -> list[tuple[pathlib.Path, str]]:
  """Settings that stand by themselves, such as `--config.rl.group_size=8`."""
  spans = ((path, span) for path in DOCUMENTS for span in re.findall(r"`(--config\.[^`]+)`", path.read_text()))
  return [(path, one) for path, span in spans for one in re.findall(r"--config\.[\w.]+", span)]


def section(path: pathlib.Path, heading: str) -> str:
  """The text below a heading up to the next one of its rank."""
  rank = heading.partition(" ")[0]
  _, found, rest = path.read_text().partition(f"\n{heading}\n")
  assert found, f"{path}: no {heading!r}"
  return rest.partition(f"\n{rank} ")[0]


def rows(text: str) -> list[list[str]]:
  """The cells of the rows of all its tables, heads and rules left out."""
  found = [line.strip("| ").split(" | ") for line in text.splitlines() if re.match(r"\| \S", line)]
  return [cells for cells in found if "`" in cells[0]]


def metrics() -> set[str]:
  """The names of metrics that docs/report.md explains; NAME/I: of each update, alarm/NAME: of each alarm."""
  return {name for cells in rows(section(ROOT / "docs" / "report.md", "## Metrics")) for name in quoted(cells[0])}


def quoted(text: str) -> list[str]:
  return re.findall(r"`([^`]+)`", text)


def generic(metric: str) -> str:
  """A metric's name as the document has it."""
  return re.sub(r"/\d+$", "/I", re.sub(r"^alarm/.*", "alarm/NAME", metric))
