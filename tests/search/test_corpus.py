"""A corpus on the disk and its index: built once, shared, refused when it is not what it was."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from score_jax.errors import UserError
from score_jax.search import passages
from score_jax.search.corpus import Corpus, PassageFields
from score_jax.search.passages import BM25Search, Document, find_passages

ROWS = [{"id": i, "title": f"Page {i}", "text": f"moon {'dust ' * (i % 7)}number {i} é😀\nend"} for i in range(200)]
FIELDS = PassageFields("title", "text")
DATA = pathlib.Path(os.environ.get("SCORE_JAX_DATA", "nowhere")) / "multihop"
needs_data = pytest.mark.skipif("SCORE_JAX_DATA" not in os.environ, reason="SCORE_JAX_DATA names no real data")


def write(path: pathlib.Path, rows: list[dict[str, object]]) -> pathlib.Path:
  path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
  return path


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
  return write(tmp_path / "corpus.jsonl", ROWS)


@pytest.fixture
def opened(path: pathlib.Path) -> Iterator[Callable[..., Corpus]]:
  """Opens corpora, by default the one above with its index beside it, and closes them all."""
  corpora: list[Corpus] = []

  def open_corpus(
    file: pathlib.Path = path,
    *,
    fields: PassageFields = FIELDS,
    sha256: str = "",
    indexes: pathlib.Path = path.parent / "indexes",
  ) -> Corpus:
    corpora.append(Corpus(file, fields=fields, sha256=sha256, indexes=indexes))
    return corpora[-1]

  yield open_corpus
  for corpus in corpora:
    corpus.close()


def files(folder: pathlib.Path) -> dict[str, bytes]:
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_index_is_built_once_and_gives_what_one_in_memory_gives(
  opened: Callable[..., Corpus], monkeypatch: pytest.MonkeyPatch
) -> None:
  built = opened()
  monkeypatch.setattr(Corpus, "_make", lambda self: pytest.fail("it was built a second time"))
  again = opened()
  memory = BM25Search.from_documents([Document(row["title"], row["text"]) for row in ROWS], top_k=9, passage_chars=300)
  for query in ("moon", "dust 17", "number é", "Page 199 end", "nothing"):
    results = [BM25Search(c.index, c, top_k=9, passage_chars=300)(query) for c in (built, again)]
    assert results == [memory(query)] * 2
  assert len(again) == len(again.index) == 200


def test_a_loaded_index_is_mapped_and_not_read(opened: Callable[..., Corpus]) -> None:
  index = opened().index
  for array in (index._scores, index._passages, index._bounds):
    assert isinstance(array.base, np.memmap) and not array.flags.writeable


def test_the_same_file_gives_the_same_index_whatever_the_hash_seed(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
  code = "import pathlib, sys\nfrom score_jax.search.corpus import Corpus, PassageFields"
  code += "\nfile, to = map(pathlib.Path, sys.argv[1:])"
  code += "\nprint(Corpus(file, fields=PassageFields('title', 'text'), sha256='', indexes=to).folder, end='')"
  found = []
  for seed in ("1", "2"):
    command = [sys.executable, "-W", "ignore", "-c", code, str(path), str(tmp_path / seed)]
    run = subprocess.run(
      command, env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True, text=True
    )
    found.append((pathlib.Path(run.stdout).name, files(pathlib.Path(run.stdout))))
  assert found[0] == found[1]


def test_the_pinned_hash_decides(opened: Callable[..., Corpus], path: pathlib.Path) -> None:
  sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
  assert opened(sha256=sha256.upper()).sha256 == sha256
  path.write_bytes(path.read_bytes().replace(b'Page 7"', b'Page 8"'))
  with pytest.raises(
    UserError, match=rf"tools\.search\.sha256='{sha256}', but .*corpus\.jsonl has [0-9a-f]{{64}}: give"
  ):
    opened(sha256=sha256)


def test_other_bytes_and_other_fields_have_an_index_of_their_own(
  opened: Callable[..., Corpus], tmp_path: pathlib.Path
) -> None:
  rows = [{"title": "One", "text": "moon", "contents": '"Two"\nsun'}]
  file = write(tmp_path / "other.jsonl", rows)
  folders = {opened().folder, opened(file).folder, opened(file, fields=PassageFields("", "contents")).folder}
  assert len(folders) == 3
  assert opened(file, fields=PassageFields("", "contents"))[0] == Document("Two", "sun")


def test_other_rules_for_words_have_an_index_of_their_own(
  opened: Callable[..., Corpus], monkeypatch: pytest.MonkeyPatch
) -> None:
  """An index that an earlier version kept is not taken for one of today's."""
  former = {
    "k1": passages.BM25_K1,
    "b": passages.BM25_B,
    "words": r"\w+",
    "lower": True,
    "bm25s": passages.INDEX_RULES["bm25s"],
  }
  now = opened().folder
  monkeypatch.setattr(passages, "INDEX_RULES", former)
  assert opened().folder != now


def test_blank_lines_and_a_missing_last_newline(opened: Callable[..., Corpus], tmp_path: pathlib.Path) -> None:
  file = tmp_path / "odd.jsonl"
  file.write_bytes(b'\n{"title": "A", "text": "moon"}\r\n  \n\n{"title": "B", "text": "moon"}')
  corpus = opened(file)
  assert [document.title for document, _ in find_passages(corpus.index, corpus, "moon", 9)] == ["A", "B"]


@pytest.mark.parametrize(
  ("line", "message"),
  [
    (b"{", "line 2 is no passage"),
    (b"[1]", r"line 2 is no passage \(no JSON object\)"),
    (b'{"title": "A"}', r"line 2 is no passage \(no text under 'text', only 'title'\); name its keys"),
    (b'{"title": 1, "text": "a"}', "no text under 'title'"),
    (b'{"title": "\xff", "text": "a"}', "line 2 is no passage"),
    (b"[" * 100_000, "line 2 is no passage"),
  ],
)
def test_a_line_that_is_no_passage_is_named(
  opened: Callable[..., Corpus], tmp_path: pathlib.Path, line: bytes, message: str
) -> None:
  file = tmp_path / "bad.jsonl"
  file.write_bytes(b'{"title": "A", "text": "a"}\n' + line + b"\n")
  with pytest.raises(UserError, match=message):
    opened(file)
  assert not list((tmp_path / "indexes").iterdir())  # neither an index nor a draft of one


def test_files_that_are_not_there_or_empty(opened: Callable[..., Corpus], tmp_path: pathlib.Path) -> None:
  with pytest.raises(UserError, match=r"tools\.search\.path=.*cannot be read \(No such file"):
    opened(tmp_path / "none.jsonl")
  (tmp_path / "empty.jsonl").write_text("")
  with pytest.raises(UserError, match="0 documents and no word"):
    opened(tmp_path / "empty.jsonl")
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match=r"no index can be written to .*give tools\.search\.index another"):
    opened(indexes=tmp_path / "file")


def test_a_damaged_index_is_refused_by_name(opened: Callable[..., Corpus]) -> None:
  folder = opened().folder
  for name, good in files(folder).items():
    for bad in (good[: len(good) // 2], good[:-1] + bytes([good[-1] ^ 1]), b"", None):
      os.remove(folder / name)
      if bad is not None:
        (folder / name).write_bytes(bad)
      if name == "manifest.json" and bad == good[:-1] + bytes([good[-1] ^ 1]):
        continue  # its last byte is a newline
      with pytest.raises(UserError, match=rf"search index {folder} is damaged .*delete it"):
        opened()
      (folder / name).write_bytes(good)
  assert opened().folder == folder


def test_several_may_build_at_the_same_time(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
  """Threads here, so that all of them are past the look for an index before the first one has made it."""
  ready = threading.Barrier(4)
  results: list[str] = []

  class Racing(Corpus):
    def _make(self) -> None:
      ready.wait(30.0)
      super()._make()

  def race() -> None:
    corpus = Racing(path, fields=FIELDS, sha256="", indexes=tmp_path / "race")
    results.append(BM25Search(corpus.index, corpus, top_k=5, passage_chars=200)("dust number 5"))
    corpus.close()

  threads = [threading.Thread(target=race) for _ in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(results) == 4 and len(set(results)) == 1
  assert len(list((tmp_path / "race").iterdir())) == 1  # and no drafts


def test_a_corpus_that_changes_under_way_is_not_read_on(opened: Callable[..., Corpus], path: pathlib.Path) -> None:
  corpus = opened()
  replaced = path.with_suffix(".new")
  replaced.write_text("{}\n")
  assert corpus[3].title == "Page 3"
  os.rename(replaced, path)  # this one is still the old file
  assert corpus[3].title == "Page 3"
  other = write(path.with_name("other.jsonl"), ROWS)
  corpus = opened(other)
  other.write_text("{}\n")
  with pytest.raises(OSError, match="was changed while it was in use"):
    corpus[3]


def test_many_threads_get_what_one_gets(opened: Callable[..., Corpus]) -> None:
  corpus = opened()
  search = BM25Search(corpus.index, corpus, top_k=9, passage_chars=200)
  queries = [f"dust number {i} page" for i in range(200)]
  expected = [search(query) for query in queries]
  wrong: list[str] = []

  def ask() -> None:
    wrong.extend(q for q, text in zip(queries, expected, strict=True) if search(q) != text)

  threads = [threading.Thread(target=ask) for _ in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not wrong


@needs_data
def test_it_finds_what_multi_hop_questions_need(opened: Callable[..., Corpus]) -> None:
  """Index within 5 s, a query within 2 ms, and the share of questions whose gold pages are all in the top ten."""
  start = time.process_time()
  corpus = opened(DATA / "corpus.jsonl")
  assert time.process_time() - start < 5.0
  assert len(corpus) == 17_588
  questions = [json.loads(line) for line in (DATA / "questions.jsonl").read_bytes().splitlines()]
  search = BM25Search(corpus.index, corpus, top_k=10, passage_chars=400)
  seconds = []
  complete: dict[str, list[bool]] = {}
  for question in (q for q in questions if q["split"] == "dev"):
    start = time.perf_counter()
    text = search(question["question"])
    seconds.append(time.perf_counter() - start)
    assert text.count("\n") == 9 and len(text) <= 4096
    titles = {document.title for document, _ in find_passages(corpus.index, corpus, question["question"], 10)}
    complete.setdefault(question["dataset"], []).append(titles >= set(question["gold_titles"]))
  assert np.median(seconds) < 0.002
  shares = {name: np.mean(each) for name, each in complete.items()}
  assert shares == {
    "hotpotqa": pytest.approx(0.725, abs=0.015),
    "2wikimultihopqa": pytest.approx(0.463, abs=0.013),
    "musique": pytest.approx(0.235, abs=0.015),
  }
