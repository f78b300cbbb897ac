"""The example of docs/your_own.md, run as it stands there, with a teacher that knows the answers."""

from __future__ import annotations

import json
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from score_jax import main
from score_jax.config import load_config
from score_jax.errors import UserError
from score_jax.runtime.workdir import Workdir
from tests.chat.servers import Scripted

ROOT = pathlib.Path(__file__).parent.parent
NAMES = ("mine_tools.py", "mine.jsonl", "configs/mine.py")

pytestmark = pytest.mark.usefixtures("lenient_promotion")  # of the optimiser and its schedules


@pytest.fixture
def files(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
  """The files of the page, written where it says, beside the configs of the checkout."""
  blocks = re.findall(r"```(?:python|json)\n(.*?)```", (ROOT / "docs/your_own.md").read_text(), re.DOTALL)
  shutil.copytree(ROOT / "configs", tmp_path / "configs")
  found = dict(zip(NAMES, blocks, strict=True))
  for name, text in found.items():
    (tmp_path / name).write_text(text)
  monkeypatch.chdir(tmp_path)
  return found


def test_they_are_of_thirty_lines(files: dict[str, str]) -> None:
  assert len([line for text in files.values() for line in text.splitlines() if line.strip()]) <= 30


def test_the_function_is_there_for_code(files: dict[str, str]) -> None:
  (asked,) = re.findall(r"^echo '(.*)' \| python", (ROOT / "docs/your_own.md").read_text(), re.MULTILINE)
  command = [sys.executable, "-m", "score_jax.sandbox", "--functions=mine_tools.py"]
  done = subprocess.run(command, input=asked + "\n", capture_output=True, text=True, check=True, timeout=120)
  assert json.loads(done.stdout)["observation"] == "XLIII"


SUMS = {"12 pears": "12 + 31", "9 books": "9 * 11", "80 nails": "80 - 36", "third of 342": "342 // 3"}


def taught(messages: list[dict[str, str]]) -> str:
  """What a teacher says that uses the function it is told of."""
  text = messages[0]["content"]
  code = next(code for words, code in SUMS.items() if words in text)
  if "- roman(number: int) -> str: The Roman numeral of a number from 1 to 399." not in text:
    return json.dumps({"thought": "Compute, then convert."})  # it is asked for a first thought, which has no code
  return json.dumps({"thought": "Compute and convert.", "code": f"final_answer_print(roman({code}))"})


@pytest.fixture
def teacher() -> Iterator[Scripted]:
  server = Scripted(taught, lambda number: None)
  yield server
  server.stop()


def test_a_teacher_uses_it_and_the_student_learns_from_that(
  files: dict[str, str], teacher: Scripted, tmp_path: pathlib.Path, on_one_device: None
) -> None:
  config: Any = load_config("configs/mine.py")
  config.chat.url, config.stages, config.survival.grace_s = teacher.url, ("warm_start",), 1e6
  config.sampler.slots, config.train.rows, config.train.micro_rows = 8, 2, 2  # little, as of all smoke runs
  main.run_job(config, str(tmp_path / "run"))
  shown = list(Workdir(str(tmp_path / "run")).read_parts("warm_start"))
  assert len(shown) == 2 and all(t.right and "roman(" in t.steps[-1].code for t in shown)
  assert json.loads((tmp_path / "run/stages/warm_start.json").read_text())["updates"] > 0
  (tmp_path / "mine_tools.py").write_text(files["mine_tools.py"] + "\nMORE = 1\n")
  config.stages = ("warm_start", "mps")
  with pytest.raises(UserError, match=r"tools.functions = 'mine_tools.py' has changed since this run began"):
    main.run_job(config, str(tmp_path / "run"))
