"""Text from outside: sound wherever it enters, and files are read alike whatever the locale."""

from __future__ import annotations

import ast
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from etils import epath

from score_jax.errors import UserError
from score_jax.grading.judge import parse_json_reply
from score_jax.tasks import datasets, gsm8k
from score_jax.tasks.datasets import read_utf8
from score_jax.teaching import release
from score_jax.text import parse_json, replace_surrogates, replace_surrogates_in_json
from tests.teaching.test_release import RECORD

ROOT = pathlib.Path(__file__).parent.parent
SOURCES = sorted(
  [ROOT / "setup.py", *(p for f in ("score_jax", "benchmarks", "configs", "launch") for p in (ROOT / f).rglob("*.py"))]
)
SHELL = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "JAX_PLATFORMS": "cpu"}
POSIX = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
  ("text", "expected"),
  [("plain é 😀", "plain é 😀"), ("a\ud800b", "a\ufffdb"), ("\udcff", "\ufffd"), ("\ud83d\ude00", "😀"), ("", "")],
)
def test_halves_of_surrogate_pairs_are_replaced(text: str, expected: str) -> None:
  assert replace_surrogates(text) == expected
  assert replace_surrogates_in_json({text: [text, 1, None]}) == {expected: [expected, 1, None]}
  assert parse_json(json.dumps([text])) == parse_json(json.dumps([text], ensure_ascii=False)) == [expected]


def test_a_question_with_half_a_pair_has_a_text_that_any_file_takes(tmp_path: pathlib.Path) -> None:
  file = tmp_path / "train.jsonl"
  file.write_text('{"question": "How \\ud800many?", "answer": "#### 1"}\n', encoding="utf-8")
  [question] = gsm8k.load_gsm8k(str(file), "train")
  assert question.text == "How \ufffdmany?"
  question.text.encode()


def test_a_reply_of_a_teacher_with_half_a_pair_is_sound() -> None:
  assert parse_json_reply('{"thought": "a\\udfff"}') == {"thought": "a\ufffd"}


def test_json_lines_end_with_newlines_alone(tmp_path: pathlib.Path) -> None:
  """Text may hold what else Python takes for the end of a line."""
  marks = "a\u2028b\u2029c\u0085d\x1ce"
  info = RECORD["original_task_info"] | {"question": marks}  # pyright: ignore[reportOperatorIssue]
  lines = [json.dumps(RECORD | {"original_task_info": info}, ensure_ascii=False).replace("\\u001c", "\x7f")] * 2
  (tmp_path / "r.jsonl").write_text("\n".join(lines), encoding="utf-8")
  assert [q.text for q, _ in release.read_release(str(tmp_path / "r.jsonl"))] == [marks.replace("\x1c", "\x7f")] * 2


def test_a_file_in_another_encoding_is_refused(tmp_path: pathlib.Path) -> None:
  (tmp_path / "r.jsonl").write_bytes("é".encode("latin-1"))
  for read in (
    lambda p: list(release.read_release(p)),
    lambda p: list(datasets.read_rows(p, split="", knob="k")),
    lambda p: read_utf8(epath.Path(p)),
  ):
    with pytest.raises(UserError, match=r"r\.jsonl is not in UTF-8 .*; save it so"):
      read(str(tmp_path / "r.jsonl"))


# The sources


def calls(path: pathlib.Path) -> Iterator[tuple[ast.Call, str]]:
  """The calls of a file, each with the name that is called."""
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
      yield node, node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id


def opens_text_without_encoding(node: ast.Call, name: str) -> bool:
  words: dict[str | None, Any] = {k.arg: k.value for k in node.keywords}
  if "encoding" in words:
    return False
  if name in ("run", "Popen", "check_output", "check_call"):
    return "text" in words or "universal_newlines" in words
  if name == "open":
    owner = node.func.value if isinstance(node.func, ast.Attribute) else None
    if isinstance(owner, ast.Name) and owner.id in ("os", "source"):  # no files of text
      return False
    modes = [
      a.value for a in (*node.args, words.get("mode")) if isinstance(a, ast.Constant) and isinstance(a.value, str)
    ]
    return not any("b" in mode and set(mode) <= set("rwaxb+") for mode in modes)
  return name in ("read_text", "write_text")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_text_file_is_opened_with_an_encoding(path: pathlib.Path) -> None:
  own = "def open(" in path.read_text(encoding="utf-8")  # model/pretrained.py opens models
  assert [
    n.lineno for n, name in calls(path) if opens_text_without_encoding(n, name) and not (own and name == "open")
  ] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_json_lines_are_split_by_splitlines(path: pathlib.Path) -> None:
  """`splitlines` ends a line at U+2028, U+0085 and others, which may stand within JSON text."""
  for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(function, ast.FunctionDef):
      names = {n.attr for n in ast.walk(function) if isinstance(n, ast.Attribute)}
      names |= {n.id for n in ast.walk(function) if isinstance(n, ast.Name)}
      assert not ("splitlines" in names and names & {"loads", "from_json"}), f"{path}:{function.lineno}"


# Commands


def test_a_command_runs_under_the_posix_locale(tmp_path: pathlib.Path) -> None:
  """`export` reads the UTF-8 of a model folder and writes UTF-8 there."""
  model, out = tmp_path / "model", tmp_path / "weights"
  shutil.copytree(ROOT / "score_jax" / "shipped" / "student", model)
  config = json.loads((model / "config.json").read_text(encoding="utf-8")) | {"_name_or_path": "Schüler"}
  (model / "config.json").write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
  command = [sys.executable, "-m", "score_jax.export", f"--model={model}", f"--out={out}"]
  done = subprocess.run(command, env=SHELL | POSIX, capture_output=True, check=False)
  assert done.returncode == 0, done.stderr.decode()
  assert json.loads((out / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"].keys() >= {"Ġ", "Ċ"}


def test_what_ascii_lacks_is_printed_as_escapes() -> None:
  code = (
    "from score_jax.text import escape_unencodable_output; escape_unencodable_output(); print(chr(0xfc), chr(0x2026))"
  )
  done = subprocess.run([sys.executable, "-c", code], env=SHELL | POSIX, capture_output=True, check=False)
  assert (done.returncode, done.stdout, done.stderr) == (0, b"\\xfc \\u2026\n", b"")


def test_an_argument_that_is_not_utf_8_is_refused(tmp_path: pathlib.Path) -> None:
  command = [sys.executable, "-m", "score_jax.main", "--config=configs/quickstart.py", b"--config.tasks.path=\xff"]
  done = subprocess.run(command, env=SHELL, cwd=ROOT, capture_output=True, check=False)
  assert done.returncode == 2
  assert (
    done.stderr.decode()
    .splitlines()[-1]
    .endswith("this argument is not in UTF-8; write it so, and rename files whose names are not")
  )
