"""The method's 12 benchmarks by name, and GSM-Hard: where their questions lie (GSM8K has its own module).

A file or folder (tasks/datasets.py says which) may stand in for the hub. Its rows
have the hub's fields, or `question` and `answer`, with `id` and `aliases` where
they know them.

None of the hub's copies could be fetched where this was written: names, parts
and fields are from public code that reads them. How many questions a copy
should have is `found`; another number is told when it is read. Three are
subsets in the paper:

- GAIA: 103 of the text-only validation questions, which other work has chosen by hand. Here those without a file are
  taken (127) and `tasks.test` says how many; for exactly the 103 give a file of them.
- HLE: 500 of the questions without a picture, WebWalkerQA: 200 of 680; which ones is not published.

HotpotQA, 2WikiMultihopQA and MuSiQue are 200 of their validation splits. Here
a seeded hash of the text chooses.
"""

from __future__ import annotations

import base64
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator

from score_jax.errors import UserError
from score_jax.tasks import datasets
from score_jax.tasks.datasets import QuestionFields, Row, build_questions, is_blank
from score_jax.trajectory import Question


def _without_picture(row: Row) -> Row | None:
  return row if is_blank(row.get("image")) else None


def _without_file(row: Row) -> Row | None:
  return row if is_blank(row.get("file_name")) else None


def _answerable(row: Row) -> Row | None:
  return row if is_blank(row.get("answerable")) or row["answerable"] else None


def _deciphered(row: Row) -> Row:
  """xbench keeps its texts out of crawls: base64 of the bytes, each exclusive-or the next one of `canary`."""
  key = row.get("canary")
  if not isinstance(key, str) or not key:
    return row

  def plain(text: str) -> str:
    return bytes(a ^ b for a, b in zip(base64.b64decode(text), itertools.cycle(key.encode()), strict=False)).decode()

  return {**row, **{name: plain(row[name]) for name in ("prompt", "answer") if isinstance(row.get(name), str)}}


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """Where a benchmark lies and how its rows are read."""

  hub_datasets: tuple[str, ...]  # ORG/NAME or ORG/NAME:CONFIG, one after the other
  split: str
  fields: QuestionFields
  paper_count: int  # questions that the paper evaluates
  hub_count: int | None  # questions that there should be, of those that `opened` keeps; None: not known
  licence: str  # of the data, as its card or its authors give it
  gated: bool = False  # the hub asks for a token
  tries: int = 4  # of a question, where an evaluation does not say otherwise
  prepare_row: Callable[[Row], Row | None] = lambda row: row  # a row as it is read; None leaves it out


MATH_FIELDS = QuestionFields("problem", "answer")
QA_FIELDS = QuestionFields("question", "answer", "id")

BENCHMARKS: dict[str, Benchmark] = {
  "aime24": Benchmark(("HuggingFaceH4/aime_2024",), "train", MATH_FIELDS, 30, 30, "not stated", tries=32),
  "aime25": Benchmark(("math-ai/aime25",), "test", MATH_FIELDS, 30, 30, "not stated", tries=32),
  "math500": Benchmark(
    ("HuggingFaceH4/MATH-500",), "test", QuestionFields("problem", "answer", "unique_id"), 500, 500, "MIT"
  ),
  "olymmath": Benchmark(
    ("RUC-AIBOX/OlymMATH:en-easy", "RUC-AIBOX/OlymMATH:en-hard"),
    "test",
    QuestionFields("problem", "answer", "unique_id"),
    200,
    200,
    "MIT",
  ),
  "hotpotqa": Benchmark(("hotpotqa/hotpot_qa:distractor",), "validation", QA_FIELDS, 200, 7405, "CC BY-SA 4.0"),
  "2wiki": Benchmark(("framolfese/2WikiMultihopQA",), "validation", QA_FIELDS, 200, 12576, "Apache-2.0"),
  "musique": Benchmark(
    ("dgslibisey/MuSiQue",),
    "validation",
    QuestionFields("question", "answer", "id", "answer_aliases"),
    200,
    2417,
    "CC BY 4.0",
    prepare_row=_answerable,
  ),
  "bamboogle": Benchmark(("chiayewken/bamboogle",), "test", QuestionFields("Question", "Answer"), 125, 125, "MIT"),
  "gaia": Benchmark(
    ("gaia-benchmark/GAIA:2023_all",),
    "validation",
    QuestionFields("Question", "Final answer", "task_id"),
    103,
    127,
    "not to be shared in a form that can be crawled",
    gated=True,
    prepare_row=_without_file,
  ),
  "webwalkerqa": Benchmark(("callanwu/WebWalkerQA",), "main", QuestionFields(), 200, 680, "Apache-2.0"),
  "hle": Benchmark(("cais/hle",), "test", QA_FIELDS, 500, None, "MIT", gated=True, prepare_row=_without_picture),
  "xbench": Benchmark(
    ("xbench/DeepSearch",),
    "train",
    QuestionFields("prompt", "answer", "id"),
    100,
    100,
    "MIT; not to be put online in the clear",
    prepare_row=_deciphered,
  ),
  "gsm_hard": Benchmark(
    ("reasoning-machines/gsm-hard",), "train", QuestionFields("input", "target"), 1319, 1319, "MIT"
  ),
}

#: the means that the paper gives -> the benchmarks that they are over
AVERAGES = {
  "math_qa_average": ("aime24", "aime25", "math500", "olymmath", "hotpotqa", "2wiki", "musique", "bamboogle"),
  "deep_search_average": ("gaia", "webwalkerqa", "hle", "xbench"),
}


def load_benchmark(name: str, path: str, *, knob: str) -> list[Question]:
  """All questions of a benchmark, their ids with its name before them.

  Args:
    name: a key of BENCHMARKS.
    path: a file, folder or place on the hub that stands in for its own; "" for its own.
    knob: the config's key that the path came from.

  Raises:
    UserError: it cannot be fetched (the message says how to come to a gated one), or a row is of another form.
  """
  benchmark = BENCHMARKS[name]
  places = (path,) if path else benchmark.hub_datasets
  opened = _opened(name, itertools.chain(*(datasets.read_rows(p, split=benchmark.split, knob=knob) for p in places)))
  own = benchmark.fields
  remedy = f"{name} has {own.question!r} and {own.answer!r}; give rows with those, or with 'question' and 'answer'"
  return build_questions(opened, lambda row: _fields(own, row), remedy=remedy, prefix=f"{name}/")


def describe_question_counts(name: str, path: str, found: int, evaluated: int) -> list[str]:
  """What a user should know of a benchmark that was read: another number of questions than it should have.

  Args:
    name: a key of BENCHMARKS.
    path: what stood in for the hub; "": nothing.
    found: how many questions there are.
    evaluated: how many the run tests on.
  """
  benchmark, told = BENCHMARKS[name], []
  if not path and benchmark.hub_count not in (None, found):
    told.append(f"{name} has {found} questions on the hub, not {benchmark.hub_count}: its copy is another one")
  if evaluated != benchmark.paper_count:
    told.append(f"{name}: {evaluated} of {found} questions; the paper evaluates {benchmark.paper_count}")
  return told


def _opened(name: str, found: Iterable[tuple[str, Row]]) -> Iterator[tuple[str, Row]]:
  for where, row in found:
    try:
      opened = BENCHMARKS[name].prepare_row(row)
    except ValueError as error:  # what is no base64, or no UTF-8 under the key
      raise UserError(f"{where} cannot be deciphered ({error}); fetch {name} again") from error
    if opened is not None:
      yield where, opened


def _fields(own: QuestionFields, row: Row) -> QuestionFields:
  """The benchmark's own fields, or plain ones where the row has those instead."""

  def known(*names: str) -> str:
    return next((name for name in names if name in row), "")

  text = own if own.question in row or "question" not in row else QuestionFields()
  return QuestionFields(text.question, text.answer, known(own.id, "id"), known(own.aliases, "aliases"))
