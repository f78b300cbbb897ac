"""From a config to a search."""

from __future__ import annotations

import contextlib
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from etils import epath
from ml_collections import ConfigDict

from score_jax.config import SEARCH_TRANSPORT
from score_jax.errors import UserError
from score_jax.experiment.results import compute_stage_identity
from score_jax.experiment.stages import STAGES
from score_jax.sandbox.sandbox import Sandbox
from score_jax.search.backends import REQUIRED_SETTINGS, open_search
from score_jax.search.passages import Document, SearchFailed
from tests.configs import module
from tests.search.retrievers import ok, retriever

DOCUMENTS = (Document("Oslo", "The capital of Norway."), Document("Lima", "The capital of Peru."))


def config(**changed: object) -> ConfigDict:
  """tools.search of the quickstart, changed."""
  c = module("quickstart").get_config().tools.search
  c.update({"top_k": 1, "retries": 0} | changed)
  return c


@contextlib.contextmanager
def searching(folder: pathlib.Path, **changed: object) -> Iterator[Callable[[str], str]]:
  with open_search(config(**changed), DOCUMENTS, folder) as search:
    assert search is not None
    yield search


def test_the_documents_of_the_tasks(tmp_path: pathlib.Path) -> None:
  with searching(tmp_path) as search:
    assert search("Peru") == "Lima: The capital of Peru."
  with open_search(config(), (), tmp_path) as none, open_search(config(kind="none"), DOCUMENTS, tmp_path) as no:
    assert none is no is None
  assert not list(tmp_path.iterdir())


def test_a_corpus(tmp_path: pathlib.Path) -> None:
  path = tmp_path / "corpus.jsonl"
  path.write_text("".join(json.dumps({"id": d.title, "contents": d.contents}) + "\n" for d in DOCUMENTS))
  settings = {"kind": "bm25", "path": str(path), "title": "", "text": "contents", "index": str(tmp_path / "index")}
  for _ in range(2):
    with searching(tmp_path, **settings) as search:
      assert search("Norway") == "Oslo: The capital of Norway."
  assert len(list((tmp_path / "index").iterdir())) == 1


def test_a_retriever_and_then_its_replay(tmp_path: pathlib.Path) -> None:
  with retriever(ok("Oslo\nA town.")) as played:
    with searching(tmp_path, kind="http", url=played.url) as search:
      assert [search("a"), search("a"), search("b")] == ["Oslo: A town."] * 3
    assert len(played.asked) == 3  # and one of them at the start, to see whether it is a retriever
  assert [path.name for path in tmp_path.iterdir()] == ["search.sqlite"]
  with searching(tmp_path, kind="http", url=played.url, offline=True) as search:
    assert search("b") == "Oslo: A town."
    with pytest.raises(SearchFailed, match=r"no result of .* for 'c'"):
      search("c")
  cache = {"kind": "http", "url": played.url, "cache": str(tmp_path / "search.sqlite"), "offline": True}
  with open_search(config(**cache), (), epath.Path("gs://bucket/run")) as search:
    assert search is not None and search("a") == "Oslo: A town."


def test_code_searches_a_retriever_and_hears_why_there_is_nothing(tmp_path: pathlib.Path) -> None:
  """Through the sandbox: what the query is to blame for is text to the code, what the host is ends it."""
  replies = ok("probe"), ok("Oslo\nA town."), (422, {}, b""), (503, {"Retry-After": "0"}, b"down")
  with retriever(*replies) as played, searching(tmp_path, kind="http", url=played.url) as search:
    limits = {"isolation": "process", "workers": 1, "sessions": 8, "timeout_s": 30.0, "memory_mb": 256, "files_mb": 16}
    limits["output_chars"] = 400
    with Sandbox(**limits, search=search) as tool:
      code = "def look(q):\n  return [web_search(q) for _ in range(3)]\nprint(*look('a'), web_search('b'), sep='\\n')"
      outcome = tool.run(code)
      assert outcome.reason == "ok"
      assert outcome.observation.splitlines() == [
        *["Oslo: A town."] * 3,
        "no results: the retriever refuses this query (HTTP 422)",
      ]
      failed = tool.run("print(web_search('c'))")
  assert failed.reason == "host_failure"
  assert failed.observation == f"web_search failed: SearchFailed: {played.url}: HTTP 503: down (1 tries)"


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    ({"kind": "google"}, "tools.search.kind = 'google'; choose from tasks, bm25, http, none"),
    ({"kind": "bm25"}, "tools.search.path = '' with tools.search.kind = 'bm25': give path for kind 'bm25'"),
    ({"path": "a.jsonl"}, "tools.search.path = 'a.jsonl' with tools.search.kind = 'tasks': give path for kind 'bm25'"),
    ({"kind": "http"}, "tools.search.url = '' with tools.search.kind = 'http'"),
    ({"kind": "bm25", "path": "a", "url": "http://b"}, "tools.search.url = 'http://b' with tools.search.kind = 'bm25'"),
    ({"top_k": 0}, "tools.search.top_k=0 finds nothing"),
    ({"kind": "http", "url": "http://a", "offline": True}, "but nowhere/search.sqlite is not there"),
  ],
)
def test_settings_that_make_no_sense(changed: dict[str, object], message: str) -> None:
  with pytest.raises(UserError) as caught, searching(pathlib.Path("nowhere"), **changed):
    pass
  assert message in str(caught.value)


def test_no_cache_can_lie_in_a_bucket() -> None:
  search = open_search(config(kind="http", url="http://127.0.0.1:1"), (), epath.Path("gs://bucket/run"))
  with pytest.raises(UserError, match=r"no search cache can lie in gs://bucket/run: give tools\.search\.cache=FILE"):
    search.__enter__()


def test_how_a_result_is_had_does_not_tell_runs_apart() -> None:
  def identities(**changed: object) -> list[str]:
    c = module("quickstart").get_config()
    c.tools.search.update(changed)
    return [compute_stage_identity(c, stage) for stage in STAGES]

  assert set(SEARCH_TRANSPORT) | set(REQUIRED_SETTINGS.values()) - {""} < set(config())
  others = {"index": "i", "timeout_s": 1.0, "retries": 9, "per_second": 1.0, "cache": "c", "offline": True}
  assert others.keys() == set(SEARCH_TRANSPORT)
  assert identities(**others) == identities()
  for changed in ({"kind": "none"}, {"top_k": 3}, {"url": "http://a"}, {"sha256": "0"}, {"passage_chars": 99}):
    assert not set(identities(**changed)) & set(identities())


def test_a_search_does_not_load_jax() -> None:
  modules = "score_jax.search.backends, score_jax.search.server"
  subprocess.run([sys.executable, "-c", f"import sys, {modules}\nassert 'jax' not in sys.modules"], check=True)
