"""The chat model that a config names: opened by the run, its means no part of a stage's identity."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
from ml_collections import ConfigDict

from score_jax import main
from score_jax.chat.interface import ChatMessage, ChatRequest
from score_jax.chat.record import REPLY_SETTINGS, REQUIRED_SETTINGS, check_chat_config
from score_jax.config import CHAT_TRANSPORT
from score_jax.errors import UserError
from score_jax.experiment.experiment import Experiment
from score_jax.experiment.results import compute_stage_identity
from score_jax.experiment.stages import STAGES
from score_jax.runtime.workdir import Workdir
from tests.chat.servers import scripted
from tests.chat.test_endpoint import KEY, upper
from tests.configs import module


def config(**chat: Any) -> ConfigDict:
  c = module("quickstart").get_config()
  c.chat.update(chat)
  return c


def ask(name: str) -> ChatRequest:
  return ChatRequest(name, (ChatMessage("user", f"figs {name}"),), 0.0, 8)


def test_a_run_asks_an_endpoint_and_replays_offline(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
  monkeypatch.setenv("THEIR_KEY", KEY)
  with scripted(upper) as server:
    online = config(kind="endpoint", url=server.url, model="m", key_env="THEIR_KEY")
    workdir = Workdir(str(tmp_path / "first"))
    main.write_or_check_config(workdir, online)
    for count in (2, 3):
      with Experiment(online, workdir) as run:
        replies = run.chat.ask([ask(str(i)) for i in range(count)])
    assert len(server.asked) == 3
  assert "2 answered from" in capsys.readouterr().out
  record = str(tmp_path / "first" / "chat.sqlite")
  monkeypatch.delenv("THEIR_KEY")
  offline = config(kind="endpoint", url="http://127.0.0.1:9/v1", model="m", key_env="THEIR_KEY", offline=True)
  offline.chat.record = record
  with Experiment(offline, Workdir(str(tmp_path / "second"))) as run:
    assert run.chat.ask([ask(str(i)) for i in range(3)]) == replies
    with pytest.raises(UserError, match=r"chat\.offline=True, and .* has no reply of m to 'new'"):
      run.chat.ask([ask("new")])
  for file in (f for f in tmp_path.rglob("*") if f.is_file()):
    assert KEY.encode() not in file.read_bytes(), file


def test_the_switches_of_the_template_reach_an_endpoint(tmp_path: pathlib.Path) -> None:
  with scripted(upper) as server:
    plain = config(kind="endpoint", url=server.url, model="m", extra='{"top_k": 4}')
    switched = config(**plain.chat.to_dict() | {"template_kwargs": '{"enable_thinking": false}'})
    for c in (plain, switched, switched):
      with Experiment(c, Workdir(str(tmp_path))) as run:
        run.chat.ask([ask("a")])
  assert [body.get("chat_template_kwargs") for body in server.asked] == [None, {"enable_thinking": False}]
  assert [body["top_k"] for body in server.asked] == [4, 4]


def test_money_that_earlier_starts_spent_counts(tmp_path: pathlib.Path) -> None:
  """44 millionths a reply, as in test_endpoint; the budget is raised in the same workdir, and the run goes on."""
  with scripted(upper) as server:
    c = config(kind="endpoint", url=server.url, model="m", budget_usd=80e-6, usd_per_million=(2.0, 10.0))
    workdir = Workdir(str(tmp_path))
    main.write_or_check_config(workdir, c)
    with Experiment(c, workdir) as run:
      run.chat.ask([ask("a"), ask("b")])
    with Experiment(c, workdir) as run:
      assert len(run.chat.ask([ask("a"), ask("b")])) == 2, "what is known costs nothing"
      with pytest.raises(UserError, match=r"over budget: 8\.8e-05 USD spent of chat\.budget_usd = 8e-05; raise it"):
        run.chat.ask([ask("c")])
    c.chat.budget_usd = 1.0
    main.write_or_check_config(workdir, c)
    with Experiment(c, workdir) as run:
      assert run.chat.ask([ask("c")])[0].text == "FIGS C"


def test_a_run_asks_a_model_on_the_mesh(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
  c = config(kind="mesh", path=str(folder), slots=8, length=128, block=128)
  c.sampler.piece, c.sampler.rows, c.sampler.decode = 16, (8,), 8
  c.chat.layer_scan = True
  with Experiment(c, Workdir(str(tmp_path))) as run:
    replies = run.chat.ask([ask("a"), ask("b")])
    run.free_teacher()
    assert run.chat.ask([ask("a"), ask("b")]) == replies and run.chat.known == 2
  assert run.chat.model == str(folder)
  assert all(reply.usage.generated and reply.usage.flops > 0 for reply in replies)
  c.chat.offline, c.chat.path = True, str(folder)
  with Experiment(c, Workdir(str(tmp_path))) as run:
    assert run.chat.ask([ask("b")]) == replies[1:]


def test_nobody_is_asked_by_default(tmp_path: pathlib.Path) -> None:
  with Experiment(config(), Workdir(str(tmp_path))) as run, pytest.raises(UserError, match=r"chat\.kind is empty"):
    _ = run.chat
  assert not (tmp_path / "chat.sqlite").exists()


@pytest.mark.parametrize(
  ("wrong", "said"),
  [
    ({"kind": "oracle"}, r"chat\.kind = 'oracle'; choose from mesh, endpoint"),
    ({"kind": "mesh"}, r"chat\.kind = 'mesh' needs chat\.path"),
    ({"kind": "endpoint", "url": "http://x/v1"}, r"needs chat\.model"),
    ({"kind": "endpoint", "model": "m", "url": "x:80"}, r"chat\.url is none: give one such as"),
    ({"kind": "endpoint", "model": "m", "url": f"http://me:{KEY}@x/v1"}, r"chat\.url is none: .* by chat\.key_env"),
    ({"key_env": KEY}, r"chat\.key_env is no name of an environment variable"),
    ({"schema": "grammar"}, r"chat\.schema = 'grammar'"),
    ({"top_p": 0.0}, r"chat\.top_p = 0\.0"),
    ({"concurrency": 0}, r"chat\.concurrency = 0"),
    ({"timeout_s": -1.0}, r"chat\.timeout_s = -1"),
    ({"patience_s": -1.0}, r"chat\.patience_s = -1"),
    ({"extra": "{"}, r"chat\.extra = '\{' is no JSON"),
    ({"extra": "[]"}, r"chat\.extra = '\[\]' is no JSON object"),
  ],
)
def test_settings_that_make_no_sense_are_told_and_no_key_with_them(
  wrong: dict[str, Any], said: str, tmp_path: pathlib.Path
) -> None:
  with pytest.raises(UserError, match=said) as refused:
    main.run_job(config(**wrong), str(tmp_path / "run"))
  assert KEY not in str(refused.value)
  assert not (tmp_path / "run").exists(), "nothing is written that could hold a key"
  check_chat_config(config().chat)


def test_a_record_needs_a_local_disk() -> None:
  from score_jax.chat.record import open_chat

  c = config(kind="mesh", path="x").chat
  with (
    pytest.raises(UserError, match=r"no record of exchanges can lie in gs://b/run: give chat\.record=FILE"),
    open_chat(c, "gs://b/run", seed=0, on_mesh=lambda: pytest.fail("loaded"), log=print),
  ):
    pass


def test_means_are_no_part_of_a_stages_identity() -> None:
  def identities(**chat: Any) -> list[str]:
    c = config(**chat)
    return [compute_stage_identity(c, stage) for stage in STAGES]

  groups = set(config().chat)
  bear = {name for names in REPLY_SETTINGS.values() for name in names} | {
    "kind",
    "path",
    "model",
    "layer_scan",
    "block",
  }
  assert set(CHAT_TRANSPORT) | bear == groups and not set(CHAT_TRANSPORT) & bear
  assert {name for names in REQUIRED_SETTINGS.values() for name in names} <= groups
  plain = identities()
  other = {"usd_per_million": (1.0, 2.0), "offline": True, "concurrency": 9, "timeout_s": 9.0, "patience_s": 9.0}
  for name in CHAT_TRANSPORT:
    value = other.get(name, 9.0 if name.startswith("budget") else "other")
    assert identities(**{name: value}) == plain, name
  for name, value in {"kind": "mesh", "path": "x", "model": "m", "top_p": 0.5, "extra": "{}"}.items():
    assert all(a != b for a, b in zip(identities(**{name: value}), plain, strict=True)), name


def test_a_workdir_of_another_model_is_refused_and_of_other_means_is_not(tmp_path: pathlib.Path) -> None:
  workdir = Workdir(str(tmp_path))
  main.write_or_check_config(workdir, config(kind="endpoint", url="http://a/v1", model="m"))
  main.write_or_check_config(workdir, config(kind="endpoint", url="http://b/v1", model="m", patience_s=9.0))
  with pytest.raises(UserError, match=r"chat\.model is 'm' there and 'n' here"):
    main.write_or_check_config(workdir, config(kind="endpoint", url="http://a/v1", model="n"))
