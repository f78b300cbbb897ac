"""Draws the two pictures of docs/dev/architecture.md from the source of score_jax, as mermaid graphs.

    python docs/dev/draw.py            prints both
    python docs/dev/draw.py --write    puts them into the page
    python docs/dev/draw.py --check    exit status 1 if the page has other ones

The first picture is read from the imports alone: a room's floor is the longest chain of imports below it. An arrow
that others imply is left out. The second is the list FLOW below; every function and class in it must exist.
"""

from __future__ import annotations

import argparse
import ast
import functools
import pathlib
import re
import sys
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "score_jax"
PAGE = pathlib.Path(__file__).with_name("architecture.md")

#: what is done with data: name in the graph -> module and function (or Class.method)
NODES = {
  "load": ("tasks.questions", "load_tasks"),
  "demonstrate": ("teaching.teacher", "Teacher.demonstrate"),
  "correct_only": ("training_data", "keep_correct"),
  "mentor": ("teaching.mentoring", "mentor_questions"),
  "student": ("agent.rollout", "Agent.rollout"),
  "locate": ("teaching.teacher", "Teacher.locate"),
  "correct": ("teaching.teacher", "Teacher.correct"),
  "halves": ("training_data", "sft_and_rl_halves"),
  "unaided": ("training_data", "add_unaided"),
  "starts": ("teaching.mentoring", "build_rollout_starts"),
  "rl": ("agent.rollout", "Agent.rollout"),
  "score": ("rl.reward", "score_groups"),
  "example": ("train.batch", "make_example"),
  "batch": ("train.batch", "make_update"),
  "update": ("train.step", "Trainer"),
  "save": ("train.checkpoints", "Checkpoints"),
  "evaluate": ("evaluate", "evaluate_stages"),
}
#: what passes from one to the next: from, to, the class that passes (its module and name), what is meant by it
FLOW = (
  ("load", "demonstrate", ("trajectory", "Question"), "20 %"),
  ("demonstrate", "correct_only", ("trajectory", "Trajectory"), ""),
  ("correct_only", "example", ("trajectory", "Trajectory"), "right ones: warm start"),
  ("load", "mentor", ("trajectory", "Question"), "80 %"),
  ("mentor", "student", ("agent.rollout", "RolloutRequest"), ""),
  ("student", "locate", ("trajectory", "Trajectory"), "wrong"),
  ("locate", "correct", ("teaching.teacher", "Finding"), ""),
  ("correct", "student", ("teaching.teacher", "Proposal"), "the student goes on"),
  ("student", "halves", ("teaching.mentoring", "MentoredQuestion"), "right, or given up"),
  ("halves", "unaided", ("teaching.mentoring", "MentoredQuestion"), "one half"),
  ("unaided", "example", ("trajectory", "Trajectory"), "SFT"),
  ("halves", "starts", ("teaching.mentoring", "MentoredQuestion"), "the other half"),
  ("starts", "rl", ("teaching.mentoring", "RolloutStart"), ""),
  ("rl", "score", ("trajectory", "Trajectory"), "groups of G"),
  ("score", "example", ("rl.reward", "ScoredRollout"), "RL: advantages"),
  ("example", "batch", ("train.batch", "Example"), "tokens, loss_mask"),
  ("batch", "update", ("train.batch", "Batch"), "packed rows"),
  ("update", "save", ("train.step", "TrainState"), ""),
  ("save", "student", ("train.step", "TrainState"), "weights of the warm start"),
  ("save", "rl", ("train.step", "TrainState"), "weights of SFT, then of each RL step"),
  ("save", "evaluate", ("train.step", "TrainState"), "weights of each stage"),
)


def room_of(module: str) -> str:
  return module.partition(".")[0]


def iter_imports(path: pathlib.Path) -> Iterator[str]:
  """The rooms and modules of score_jax that a file imports anywhere in it."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (a.name.removeprefix("score_jax.") for a in node.names if a.name.startswith("score_jax."))
    elif isinstance(node, ast.ImportFrom) and node.module == "score_jax":
      yield from (a.name for a in node.names)
    elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("score_jax."):
      yield str(node.module).removeprefix("score_jax.")


def read_rooms() -> dict[str, set[str]]:
  """Each room, or module beside the rooms, and those that it imports."""
  rooms: dict[str, set[str]] = {}
  for path in sorted(PACKAGE.rglob("*.py")):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts == ("__init__",):
      continue
    room = parts[0]
    rooms.setdefault(room, set()).update(room_of(other) for other in iter_imports(path))
  return {room: {other for other in others if other in rooms} - {room} for room, others in rooms.items()}


def find_floors(rooms: dict[str, set[str]]) -> dict[str, int]:
  """The length of the longest chain of imports below each room."""
  floors: dict[str, int] = {}

  def floor(room: str, above: tuple[str, ...] = ()) -> int:
    if room in above:
      raise SystemExit(f"rooms import each other: {' -> '.join((*above[above.index(room) :], room))}")
    if room not in floors:
      floors[room] = 1 + max((floor(other, (*above, room)) for other in rooms[room]), default=-1)
    return floors[room]

  return {room: floor(room) for room in rooms}


def draw_rooms() -> str:
  """The rooms by floor; an arrow leads from a room to one that it imports."""
  rooms = read_rooms()
  floors = find_floors(rooms)

  @functools.cache
  def below(room: str) -> frozenset[str]:
    return frozenset(rooms[room]).union(*(below(other) for other in rooms[room]))

  lines = ["flowchart TB"]
  for number in range(max(floors.values()), -1, -1):
    lines.append(f'  subgraph floor{number}["{number}"]')
    lines.append("    direction LR")
    for room in sorted(room for room in rooms if floors[room] == number):
      lines.append(f'    {room}["{room}/"]' if (PACKAGE / room).is_dir() else f'    {room}("{room}.py")')
    lines.append("  end")
  for room in sorted(rooms, key=lambda room: (-floors[room], room)):
    implied = frozenset[str]().union(*(below(other) for other in rooms[room]))
    lines += [f"  {room} --> {other}" for other in sorted(rooms[room] - implied)]
  return "\n".join(lines)


def require_defined(module: str, name: str) -> None:
  """Ends the program if a module does not define `name`, a function, a class or Class.method."""
  path = PACKAGE / f"{module.replace('.', '/')}.py"
  body = ast.parse(path.read_text()).body if path.exists() else []
  for part in name.split("."):
    found = [n for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == part]
    if not found:
      raise SystemExit(f"docs/dev/draw.py: {path.relative_to(ROOT)} has no {name}; mend NODES or FLOW")
    body = found[0].body


def draw_flow() -> str:
  """The data's way from a question to weights and their evaluation."""
  lines = ["flowchart TB"]
  for node, (module, name) in NODES.items():
    require_defined(module, name)
    lines.append(f'  {node}["{name}<br/><i>{module.replace(".", "/")}.py</i>"]')
  for source, target, (module, name), note in FLOW:
    require_defined(module, name)
    label = f"{name} ({note})" if note else name
    lines.append(f'  {source} -- "{label}" --> {target}')
  return "\n".join(lines)


def fill(page: str) -> str:
  """The page with its two pictures drawn anew."""
  for name, picture in (("rooms", draw_rooms()), ("flow", draw_flow())):
    drawn = f"<!-- {name} -->\n```mermaid\n{picture}\n```\n<!-- end of {name} -->"
    page, count = re.subn(rf"<!-- {name} -->.*?<!-- end of {name} -->", lambda _: drawn, page, flags=re.DOTALL)  # noqa: B023
    if count != 1:
      raise SystemExit(f"docs/dev/architecture.md has {count} places for the picture of {name}; it needs one")
  return page


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--write", action="store_true", help="put the pictures into the page")
  parser.add_argument("--check", action="store_true", help="exit status 1 if the page is out of date")
  options = parser.parse_args(argv)
  if options.write:
    PAGE.write_text(fill(PAGE.read_text()))
  elif options.check:
    page = PAGE.read_text()
    if fill(page) != page:
      print("docs/dev/architecture.md is out of date; run python docs/dev/draw.py --write", file=sys.stderr)
      return 1
  else:
    print(draw_rooms(), draw_flow(), sep="\n\n")
  return 0


if __name__ == "__main__":
  sys.exit(main())
