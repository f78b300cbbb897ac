"""Serves a model by OpenAI's chat completions, so that any client can talk to it.

    python -m score_jax.serve --model=exported --port=8000            what score_jax.export wrote, or any chat model
    python -m score_jax.serve --model=smollm2 --port=0                a free port, which is printed

    client = openai.OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
    client.chat.completions.create(model="exported", messages=[{"role": "user", "content": "Hello"}], logprobs=True)

Requests share the slots of one sampler as they come. With a `seed` the same request gets the same reply, whatever else
is served. Special tokens are shown as text, an agent's tags too; in an assistant's message that a client hands back the
six tags are tags again, everywhere else they are mere characters. It listens on this machine alone unless --host says
otherwise. With --key_env=NAME clients must send the key in that environment variable; there is no TLS. SIGTERM ends it
with status 0; 1 means that it failed (one line says why), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import pathlib
import re
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any

from score_jax.command import set_jax_environment
from score_jax.errors import UserError
from score_jax.limits import PORT, make_argparse_type


def build_service(args: argparse.Namespace) -> Any:
  """What is to be served (chat.service.Service), its programs compiled.

  Raises:
    UserError: there is no such model, or it cannot be served.
  """
  from score_jax.agent.protocol import TAGS
  from score_jax.chat.template import ChatTemplate
  from score_jax.model import pretrained
  from score_jax.model.sharding import make_mesh
  from score_jax.sampler.programs import SamplerPrograms
  from score_jax.sampler.scheduler import Sampler
  from score_jax.sampler.slots import ProgramShapes, Slots, request_key
  from score_jax.sampler.stops import Stops
  from score_jax.serve.engine import Engine
  from score_jax.serve.server import ChatService

  mesh = make_mesh(args.mesh, name="--mesh")
  found = pretrained.open_pretrained(args.model)
  template = ChatTemplate(found.tokenizer, generation=found.generation_config, tags=TAGS)
  model = found.load_model(dtype=args.dtype, mesh=mesh, multiple=mesh.shape["tensor"], stacked=args.layer_scan)
  length = min(args.length, model.config.context)
  size = {"slots": args.slots, "length": length, "block": min(1024, length)}
  made = SamplerPrograms(model.graph, model.config, mesh, **size, stops=Stops(template.stops), dtype=args.dtype)
  engine = Engine(Sampler(Slots(made, model.weights, ProgramShapes(piece=64, rows=(4, 16), decode=16))))
  name = args.name or pathlib.PurePath(args.model).name
  served = ChatService(name, template, engine, default_sampling_params(found.generation_config))
  for _ in engine.draw([template.stops[0]], request_key(0, "warm"), served.decoding, 1):
    pass  # compiles
  return served


def default_sampling_params(generation: Mapping[str, Any]) -> Any:
  """How is drawn where a request does not say: as generation_config.json does, else from the whole distribution."""
  from score_jax.sampler.slots import SamplingParams

  said = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
  said |= {name: generation[name] for name in said if generation.get(name) is not None}
  temperature = said["temperature"] if generation.get("do_sample", True) else 0.0
  return SamplingParams(temperature, int(said["top_k"]), said["top_p"], said["repetition_penalty"])


def run_server(args: argparse.Namespace) -> None:
  """Serves until it is told to end.

  Raises:
    UserError: it cannot.
  """
  from score_jax.serve.server import make_server

  key = read_server_key(args.key_env)
  if not key and not _loopback(args.host):
    print(
      f"note: --host={args.host} without --key_env: whoever reaches this machine can use the model; set a variable to "
      "a key and give its name as --key_env",
      file=sys.stderr,
      flush=True,
    )
  served = build_service(args)
  try:
    listening = make_server(served, args.host, args.port, key=key)
  except OSError as error:
    raise UserError(f"--port={args.port}: cannot be had on {args.host} ({error.strerror}); give another") from error
  for name in (signal.SIGTERM, signal.SIGINT):
    signal.signal(name, lambda *_: threading.Thread(target=listening.shutdown).start())
  print(f"serving {served.name} at http://{args.host}:{listening.server_port}/v1", flush=True)
  with contextlib.closing(served.engine), contextlib.closing(listening.socket):
    listening.serve_forever(poll_interval=0.1)


def read_server_key(variable: str) -> str:
  """The key that clients must send; empty where no variable is named.

  Raises:
    UserError: the variable is not set, or empty. What is no name is not shown, since it may be the key itself.
  """
  if not variable:
    return ""
  if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
    raise UserError("--key_env is no name of an environment variable; give the name of the one that holds the key")
  if not os.environ.get(variable, "").strip():
    raise UserError(f"--key_env={variable}: the environment has no such variable, or an empty one; set it to the key")
  return os.environ[variable].strip()


def _loopback(host: str) -> bool:
  """Whether only this machine can reach an address."""
  try:
    return ipaddress.ip_address(host).is_loopback
  except ValueError:
    return host == "localhost"


def main() -> int:
  parser = argparse.ArgumentParser(
    prog="python -m score_jax.serve",
    description="Serves a model by OpenAI's chat completions.",
    epilog="examples: python -m score_jax.serve --model=exported --port=8000; "
    "python -m score_jax.serve --model=Qwen/Qwen2.5-7B-Instruct --dtype=bfloat16 --mesh=1,1,8 --layer_scan. "
    "Exit status: 0 ended by SIGTERM or Ctrl-C, 1 failed (one line says why), 2 wrong usage.",
  )
  parser.add_argument("--model", required=True, help="a model folder, .gguf file, Hugging Face id, or smollm2")
  parser.add_argument("--name", default="", help="by which clients ask for it (default: the last part of --model)")
  parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine)")
  parser.add_argument("--key_env", default="", metavar="NAME", help="variable with the key that clients must send")
  parser.add_argument(
    "--port", default=8000, type=make_argparse_type(PORT), help="0: a free one, which is printed (default: %(default)s)"
  )
  parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="(default: %(default)s)")
  parser.add_argument("--slots", default=16, type=_count, help="replies drawn at once (default: %(default)s)")
  parser.add_argument("--length", default=4096, type=_count, help="tokens of prompt and reply (default: %(default)s)")
  parser.add_argument("--mesh", default=(-1, 1, 1), type=_mesh, help="data,fsdp,tensor; -1: the rest (default: -1,1,1)")
  parser.add_argument("--layer_scan", action="store_true", help="programs loop over layers: compiles sooner")
  args = parser.parse_args()
  set_jax_environment()
  try:
    run_server(args)
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  return 0


def _count(text: str) -> int:
  if int(text) < 1:
    raise ValueError
  return int(text)


def _mesh(text: str) -> tuple[int, ...]:
  sizes = tuple(int(size) for size in text.split(","))
  if len(sizes) != 3:
    raise ValueError
  return sizes


if __name__ == "__main__":
  sys.exit(main())
