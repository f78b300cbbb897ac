"""The server: OpenAI's own client talks to it; what it says is the model's, and bad requests are told."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import openai
import pytest
from tokenizers.pre_tokenizers import ByteLevel

from score_jax.chat.interface import ChatMessage, ChatRequest
from score_jax.chat.local import LocalChat
from score_jax.chat.template import ChatTemplate
from score_jax.errors import UserError
from score_jax.model import pretrained
from score_jax.sampler.scheduler import Sampler
from score_jax.sampler.slots import SamplingParams, Slots
from score_jax.serve import __main__ as serve
from score_jax.serve.engine import Engine, StreamedReply, TokenChunk
from score_jax.serve.server import ChatService, make_server
from tests.chat.conftest import LENGTH
from tests.chat.test_endpoint import endpoint
from tests.chat.test_local import logits
from tests.search.retrievers import serving

TALK: Any = [{"role": "system", "content": "You like figs."}, {"role": "user", "content": "How many?"}]


@pytest.fixture(scope="module")
def served(on_mesh: LocalChat) -> Iterator[tuple[str, int]]:
  """Host and port."""
  engine = Engine(Sampler(Slots(on_mesh.programs, on_mesh._weights, on_mesh._shapes)))
  listening = make_server(
    ChatService("tiny", on_mesh.template, engine, SamplingParams(1.0, 0, 1.0, 1.0)), "127.0.0.1", 0
  )
  with contextlib.closing(engine), serving(listening):
    yield "127.0.0.1", listening.server_port


@pytest.fixture(scope="module")
def client(served: tuple[str, int]) -> Iterator[openai.OpenAI]:
  with openai.OpenAI(base_url=f"http://127.0.0.1:{served[1]}/v1", api_key="none", max_retries=0) as made:
    yield made


def complete(client: openai.OpenAI, **more: Any) -> Any:
  return client.chat.completions.create(**{"model": "tiny", "messages": TALK, "max_tokens": 12, "seed": 5, **more})


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_logprobs_are_those_of_the_full_forward_pass(
  client: openai.OpenAI, model: pretrained.Model, temperature: float
) -> None:
  """Under the model's own distribution, whatever the temperature; each token by its own bytes."""
  found = complete(client, logprobs=True, temperature=temperature)
  prompt = list(model.tokenizer.apply_chat_template(TALK, add_generation_prompt=True)["input_ids"])
  entries = found.choices[0].logprobs.content
  vocabulary = {bytes(ChatTemplate(model.tokenizer).bytes_of(i)): i for i in range(len(model.tokenizer))}
  drawn = [vocabulary[bytes(entry.bytes)] for entry in entries]
  of_all = jax.nn.log_softmax(logits(model, prompt + drawn), axis=-1)
  expected = [of_all[len(prompt) - 1 + i, token] for i, token in enumerate(drawn)]
  np.testing.assert_allclose([entry.logprob for entry in entries], np.array(expected), rtol=0, atol=2e-4)
  assert all(entry.top_logprobs == [] for entry in entries)
  usage = found.usage
  assert (usage.prompt_tokens, usage.completion_tokens) == (len(prompt), len(drawn))
  assert usage.total_tokens == len(prompt) + len(drawn)
  if temperature == 0.0:
    assert drawn == [int(of_all[len(prompt) - 1 + i].argmax()) for i in range(len(drawn))]


def test_the_same_seed_gives_the_same_reply_whatever_else_is_asked(client: openai.OpenAI) -> None:
  alone = [complete(client, seed=seed).choices[0].message.content for seed in range(6)]
  assert len(set(alone)) == 6
  with ThreadPoolExecutor(8) as pool:
    found = list(pool.map(lambda n: complete(client, seed=n % 6, max_tokens=12).choices[0].message.content, range(24)))
  assert found == alone * 4
  unseeded = {complete(client, seed=None).choices[0].message.content for _ in range(4)}
  assert len(unseeded) > 1


def test_a_stream_says_what_a_whole_reply_says(client: openai.OpenAI) -> None:
  whole = complete(client, logprobs=True, max_tokens=30)
  parts = list(complete(client, logprobs=True, max_tokens=30, stream=True, stream_options={"include_usage": True}))
  text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
  entries = [e for part in parts if part.choices and part.choices[0].logprobs for e in part.choices[0].logprobs.content]
  assert text == whole.choices[0].message.content
  assert entries == whole.choices[0].logprobs.content
  assert parts[-2].choices[0].finish_reason == whole.choices[0].finish_reason and parts[-1].usage == whole.usage
  assert len(parts) > 5


def test_a_reply_ends_before_its_stop_sequence(client: openai.OpenAI) -> None:
  whole = complete(client, max_tokens=40, temperature=0.9)
  text = whole.choices[0].message.content
  stop = text[len(text) // 2 : len(text) // 2 + 2]
  cut = complete(client, max_tokens=40, temperature=0.9, stop=["never, never", stop], logprobs=True)
  assert cut.choices[0].message.content == text[: text.index(stop)]
  assert cut.choices[0].finish_reason == "stop" and whole.choices[0].finish_reason == "length"
  said = b"".join(bytes(entry.bytes) for entry in cut.choices[0].logprobs.content)
  assert cut.usage.completion_tokens == len(cut.choices[0].logprobs.content) < whole.usage.completion_tokens
  assert said.decode(errors="replace").count(stop) == 1, "no token after that which ends it"
  streamed = complete(client, max_tokens=40, temperature=0.9, stop=stop, stream=True)
  assert "".join(p.choices[0].delta.content or "" for p in streamed) == text[: text.index(stop)]


def test_whole_characters_alone_are_shown(model: pretrained.Model) -> None:
  template = ChatTemplate(model.tokenizer)
  ids = [
    model.tokenizer.convert_tokens_to_ids(c)
    for c in ByteLevel(False, use_regex=False).pre_tokenize_str("é😀 figs")[0][0]
  ]
  assert len(ids) == len("é😀 figs".encode()), "a token a byte"
  written = StreamedReply(template, ())
  shown = [written.add(TokenChunk([i], [0.0], last=n == len(ids) - 1)).text for n, i in enumerate(ids)]
  assert "".join(shown) == "é😀 figs" and "\N{REPLACEMENT CHARACTER}" not in "".join(shown)
  held = StreamedReply(template, ("figs!",))
  parts = [held.add(TokenChunk([i], [0.0], last=False)).text for i in ids]
  assert "".join(parts) == "é😀 ", "what may begin a stop sequence is held back"
  held.add(TokenChunk([], [], last=True))
  assert held.text == "é😀 figs"


def test_limits_end_a_reply(client: openai.OpenAI) -> None:
  for field in ("max_tokens", "max_completion_tokens"):
    found = complete(client, **{"max_tokens": None, field: 3})
    assert (found.usage.completion_tokens, found.choices[0].finish_reason) == (3, "length")
  full = complete(client, max_tokens=None)
  assert full.choices[0].finish_reason == "stop" or full.usage.total_tokens == LENGTH


def test_models_are_listed(client: openai.OpenAI) -> None:
  assert [one.id for one in client.models.list()] == ["tiny"]


@pytest.mark.parametrize(
  ("change", "field", "said"),
  [
    ({"messages": []}, "messages", "messages: List should have at least 1 item"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role", "messages.0.role: Input should be"),
    ({"messages": [{"role": "user", "content": 7}]}, "messages.0.content", "messages.0.content: "),
    (
      {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
      "messages.0.content.type",
      "messages.0.content",
    ),
    ({"messages": [{"role": "user", "content": "figs " * LENGTH}]}, "messages", "tokens, where prompt and reply may"),
    ({"temperature": -1}, "temperature", "temperature: Input should be greater"),
    ({"top_p": 0}, "top_p", "top_p: Input should be greater than 0"),
    ({"max_tokens": 0}, "max_tokens", "max_tokens: Input should be greater"),
    ({"n": 2}, "n", "n: Input should be 1"),
    ({"stop": ""}, "stop", "stop: a stop sequence needs"),
    ({"presence_penalty": 1.0}, "presence_penalty", "presence_penalty: "),
    ({"logprobs": True, "top_logprobs": 3}, "top_logprobs", "top_logprobs: Input should be 0"),
    ({"response_format": {"type": "json_object"}}, "response_format.type", "response_format.type: Input should be"),
    ({"extra_body": {"mirostat": 2}}, "mirostat", "mirostat: Extra inputs are not permitted"),
  ],
)
def test_bad_requests_name_the_field(client: openai.OpenAI, change: dict[str, Any], field: str, said: str) -> None:
  with pytest.raises(openai.BadRequestError) as refused:
    complete(client, **change)
  assert refused.value.param == field and said in refused.value.message
  assert refused.value.type == "invalid_request_error"


def test_fields_that_change_nothing_are_passed_over(client: openai.OpenAI) -> None:
  idle = {"user": "me", "n": 1, "presence_penalty": 0, "response_format": {"type": "text"}, "top_logprobs": 0}
  parts = [{**TALK[0], "content": [{"type": "text", "text": "You like "}, {"type": "text", "text": "figs."}]}, TALK[1]]
  assert complete(client, **idle).choices == complete(client, messages=parts).choices == complete(client).choices


def test_what_a_client_hands_back_is_taken(client: openai.OpenAI) -> None:
  """Five turns by the client's own objects, whose fields are mostly null; the prompt is that of bare messages."""
  talk: list[Any] = [{"role": "developer", "content": "You like figs."}]
  bare: list[Any] = [{"role": "system", "content": "You like figs."}]
  for turn in range(5):
    asked = {"role": "user", "content": f"{turn}?"}
    talk.append(asked)
    bare.append(asked)
    found, expected = (complete(client, messages=messages, max_tokens=3) for messages in (talk, bare))
    assert found.choices == expected.choices and found.usage == expected.usage
    message = found.choices[0].message
    talk.append(message.model_dump() if turn % 2 else message)
    bare.append({"role": "assistant", "content": message.content})
  dumped = talk[4]
  assert dumped["tool_calls"] is None and dumped["audio"] is None and dumped["refusal"] is None


def test_messages_without_content_and_of_tools_are_taken(client: openai.OpenAI) -> None:
  silent = [TALK[1], {"role": "assistant", "content": None, "tool_calls": []}, TALK[1]]
  empty = [TALK[1], {"role": "assistant", "content": ""}, TALK[1]]
  assert complete(client, messages=silent).choices == complete(client, messages=empty).choices
  tool = {"role": "tool", "content": "12"}
  named = complete(client, messages=[TALK[1], {**tool, "tool_call_id": "call_1", "name": "python"}])
  assert named.choices == complete(client, messages=[TALK[1], tool]).choices


def test_defaults_that_libraries_send_are_passed_over(client: openai.OpenAI) -> None:
  of_others = {"skip_special_tokens": False, "min_p": 0.0, "chat_template_kwargs": {}, "guided_json": None}
  nothing = {"tool_choice": "none", "logit_bias": {}, "modalities": ["text"], "parallel_tool_calls": False}
  assert complete(client, **nothing, extra_body=of_others).choices == complete(client).choices


@pytest.mark.parametrize(
  ("change", "field"),
  [
    ({"extra_body": {"skip_special_tokens": True}}, "skip_special_tokens"),
    ({"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}, "chat_template_kwargs"),
    ({"extra_body": {"min_p": 0.1}}, "min_p"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"logit_bias": {"3": 1}}, "logit_bias"),
    ({"messages": [{"role": "user", "content": None}]}, "messages.0"),
    ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"id": "a"}]}]}, "messages.0.tool_calls"),
  ],
)
def test_what_cannot_be_honoured_is_refused_by_name(client: openai.OpenAI, change: dict[str, Any], field: str) -> None:
  with pytest.raises(openai.BadRequestError) as refused:
    complete(client, **change)
  assert refused.value.param == field


def test_who_has_no_key_is_sent_away(on_mesh: LocalChat) -> None:
  engine = Engine(Sampler(Slots(on_mesh.programs, on_mesh._weights, on_mesh._shapes)))
  service = ChatService("tiny", on_mesh.template, engine, SamplingParams(1.0, 0, 1.0, 1.0))
  listening = make_server(service, "127.0.0.1", 0, key="a key")
  url = f"http://127.0.0.1:{listening.server_port}/v1"
  with contextlib.closing(engine), serving(listening):
    for key in ("none", "a ke", "a key ", "a key2", "é"):
      status, data = post(
        ("127.0.0.1", listening.server_port), b"{}", Authorization=f"Bearer {key}x".encode().decode("latin-1")
      )
      assert (
        status == 401 and data["error"]["code"] == "invalid_api_key" and "key is missing" in data["error"]["message"]
      )
    assert post(("127.0.0.1", listening.server_port), b"{}")[0] == 401
    with openai.OpenAI(base_url=url, api_key="wrong", max_retries=0) as wrong:
      for call in (lambda: complete(wrong), wrong.models.list):
        with pytest.raises(openai.AuthenticationError):
          call()
    with openai.OpenAI(base_url=url, api_key="a key", max_retries=0) as known:
      assert complete(known).choices[0].message.content is not None
      assert [one.id for one in known.models.list()] == ["tiny"]


def test_the_servers_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setenv("MY_KEY", "abc\n")
  assert (serve.read_server_key("MY_KEY"), serve.read_server_key("")) == ("abc", "")
  for value in ("", " "):
    monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(UserError, match="--key_env=MY_KEY: the environment has no such variable, or an empty one"):
      serve.read_server_key("MY_KEY")
  with pytest.raises(UserError, match=r"^--key_env is no name of an environment variable; give the name"):
    serve.read_server_key("sk-secret")
  assert [serve._loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "", "example.org")] == [
    *[True] * 3,
    *[False] * 3,
  ]


def test_a_model_that_is_not_served_is_404(client: openai.OpenAI) -> None:
  with pytest.raises(openai.NotFoundError, match="'other' is not served here, only 'tiny'") as missing:
    complete(client, model="other")
  assert (missing.value.param, missing.value.code) == ("model", "model_not_found")


def post(served: tuple[str, int], body: bytes, path: str = "/v1/chat/completions", **headers: str) -> tuple[int, Any]:
  with contextlib.closing(http.client.HTTPConnection(*served, timeout=30)) as connection:
    connection.request("POST", path, body, headers)
    reply = connection.getresponse()
    return reply.status, json.loads(reply.read())


def test_bytes_that_are_no_request_are_told(served: tuple[str, int]) -> None:
  for body in (b"", b"{", b"[1]", b"[" * 100_000, b"\xff", b'"x"', b"null"):
    status, data = post(served, body)
    assert status == 400 and data["error"]["message"].startswith("the body is no JSON")
  assert post(served, b"{}", "/v1/completions")[0] == 404
  assert post(served, b"", **{"Content-Length": "99999999999"})[0] == 400
  assert post(served, b"{}")[1]["error"]["param"] == "model"


def test_a_client_that_hangs_up_frees_its_slot(served: tuple[str, int], client: openai.OpenAI) -> None:
  """All slots and more are asked for long replies by clients that do not wait; the next one is served at once."""
  body = json.dumps({"model": "tiny", "messages": TALK, "stream": True}).encode()
  for _ in range(8):
    with contextlib.closing(http.client.HTTPConnection(*served, timeout=30)) as connection:
      connection.request("POST", "/v1/chat/completions", body)
  assert complete(client, max_tokens=2).usage.completion_tokens == 2


def test_an_engine_that_fails_tells_all_who_wait(on_mesh: LocalChat, monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(threading, "excepthook", lambda args: None)
  sampler = Sampler(Slots(on_mesh.programs, on_mesh._weights, on_mesh._shapes))
  engine = Engine(sampler)
  service = ChatService("tiny", on_mesh.template, engine, SamplingParams(1.0, 0, 1.0, 1.0))

  def broken() -> None:
    raise RuntimeError("out of memory")

  monkeypatch.setattr(sampler, "launch", broken)
  listening = make_server(service, "127.0.0.1", 0)
  address = ("127.0.0.1", listening.server_port)
  body = json.dumps({"model": "tiny", "messages": TALK}).encode()
  with serving(listening):
    for _ in range(2):
      status, data = post(address, body)
      assert status == 503 and data["error"]["message"] == "drawing has failed: RuntimeError: out of memory"
      assert data["error"]["type"] == "server_error"
  engine.close()


# The command


class Command:
  """`python -m score_jax.serve` in a process of its own."""

  def __init__(self, folder: pathlib.Path, port: int = 0):
    command = [sys.executable, "-m", "score_jax.serve", f"--model={folder}", f"--port={port}", "--slots=4"]
    command += ["--length=128"]
    environment = os.environ | {
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": "",
      "JAX_COMPILATION_CACHE_DIR": str(folder.parent),
    }
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    self.process = subprocess.Popen(command, **pipes)
    assert self.process.stdout is not None
    self.line = self.process.stdout.readline()
    assert self.line.startswith("serving tiny at http://127.0.0.1:"), self.process.communicate(timeout=10)
    self.url = self.line.split()[-1]

  @property
  def port(self) -> int:
    return int(self.url.split(":")[-1].partition("/")[0])

  def end(self, how: signal.Signals) -> tuple[int, str]:
    self.process.send_signal(how)
    _, err = self.process.communicate(timeout=60)
    return self.process.returncode, err


def asks(count: int) -> list[ChatRequest]:
  return [ChatRequest(f"q{i}", (ChatMessage("user", f"How many? {i}"),), 0.8, 24) for i in range(count)]


def killed_in_the_middle(folder: pathlib.Path, seconds: float, **more: Any) -> None:
  """A server is killed while it is asked, and back after so many seconds; the replies are as if nothing had been."""
  made: list[Command] = []
  command = Command(folder)
  try:
    with endpoint(command, model="tiny", seed=9) as chat:  # type: ignore[arg-type]
      expected = [reply.text for reply in chat.ask(asks(12))]
    port, found = command.port, {}
    comeback = threading.Timer(seconds, lambda: made.append(Command(folder, port)))
    with endpoint(command, model="tiny", seed=9, **more) as chat:  # type: ignore[arg-type]
      for place, reply in chat.iter_replies(asks(12)):
        found[place] = reply.text
        if len(found) == 2:
          assert command.end(signal.SIGKILL)[0] == -signal.SIGKILL
          began = time.monotonic()
          comeback.start()
      assert time.monotonic() - began >= seconds and chat.failures["connection"] >= 2
    assert [found[i] for i in range(12)] == expected
    comeback.join()
    assert made[0].end(signal.SIGTERM) == (0, "")
  finally:
    for one in (command, *made):
      one.process.kill()
      one.process.communicate()


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again_is_survived(folder: pathlib.Path) -> None:
  killed_in_the_middle(folder, 0.5, patience_s=120.0)


@pytest.mark.slow
def test_thirty_seconds_without_a_server_are_survived_by_default(folder: pathlib.Path) -> None:
  from tests.configs import module

  c = module("quickstart").get_config().chat
  killed_in_the_middle(folder, 30.0, patience_s=c.patience_s, timeout_s=c.timeout_s, concurrency=c.concurrency)


def test_what_cannot_be_served_is_one_line(
  folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
  def command(*args: str) -> int:
    monkeypatch.setattr(sys, "argv", ["serve", *args])
    return serve.main()

  assert command(f"--model={tmp_path}") == 1
  assert "config.json does not exist" in capsys.readouterr().err
  assert command(f"--model={folder}", "--mesh=3,1,1") == 1
  assert "does not fit 8 devices" in capsys.readouterr().err
  for wrong in (["--model=x", "--slots=0"], [], ["--model=x", "--mesh=1,1"]):
    with pytest.raises(SystemExit) as stopped:
      command(*wrong)
    assert stopped.value.code == 2


def test_a_model_says_how_it_is_drawn_from() -> None:
  assert serve.default_sampling_params({}) == SamplingParams(1.0, 0, 1.0, 1.0)
  said = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.1, "do_sample": True}
  assert serve.default_sampling_params(said) == SamplingParams(0.6, 20, 0.95, 1.1)
  assert serve.default_sampling_params({"do_sample": False, "repetition_penalty": 1.1}) == SamplingParams(
    0.0, 0, 1.0, 1.1
  )
