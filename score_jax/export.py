"""Writes a Hugging Face model that transformers and vLLM load as it is; or trajectories that TRL reads.

    python -m score_jax.export --workdir=runs/quickstart --stage=rl --out=exported
    python -m score_jax.export --model=Qwen/Qwen2.5-0.5B-Instruct --out=exported --dtype=bfloat16
    python -m score_jax.export --workdir=runs/quickstart --stage=mps --trajectories=preference --out=pairs.jsonl
    python -m score_jax.export --model=smollm2 --file=math_mps_trajectories.jsonl --trajectories=messages --out=a.jsonl

Of a run it takes the newest checkpoint of a stage; the run's meshes want as many
devices as it had, which the CPU can play (8 of them):

    JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m score_jax.export …

What the trajectories' forms hold stands in score_jax/trl_records.py; `--file` is a part
file of a run, or one of the method's reference release, and `--model` names the student.
With the weights go the tokenizer with the method's tags, a chat template that
renders trajectories as the agent sees them, and the decoding. Exit status: 0 done,
1 failed (one line says why), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil
import sys
from typing import Any

from score_jax.command import set_jax_environment
from score_jax.errors import UserError
from score_jax.limits import POSITIVE, make_argparse_type

TRL_FORMATS = ("messages", "prompt_completion", "preference")
DTYPES = ("float32", "bfloat16", "float16")


def export_model(model: Any, out: pathlib.Path, *, dtype: str, shard_gb: float, decoding: dict[str, Any]) -> None:
  """Writes a model (source.Model) whose tokenizer has the tags; `out` is there whole in the end, or not at all."""
  from score_jax.agent.protocol import AgentProtocol
  from score_jax.model import pretrained

  protocol, tokenizer = AgentProtocol(model.tokenizer), model.tokenizer
  tokenizer.chat_template = protocol.chat_template()
  tokens = {
    "bos_token_id": tokenizer.bos_token_id,
    "eos_token_id": protocol.stop_token,
    "pad_token_id": tokenizer.pad_token_id,
  }
  draft = out.parent / f".{out.name}.draft"
  shutil.rmtree(draft, ignore_errors=True)
  pretrained.save_pretrained(draft, model.config, model.weights, dtype=dtype, shard_bytes=int(shard_gb * 1e9), **tokens)
  pretrained.save_tokenizer(draft, model.config, tokenizer)
  known = {name: value for name, value in tokens.items() if value is not None}
  (draft / "generation_config.json").write_text(json.dumps(known | decoding, indent=2) + "\n", encoding="utf-8")
  draft.replace(out)


def load_stage_model(root: str, stage: str) -> tuple[Any, dict[str, Any]]:
  """The model that a stage of a run left, and how the run draws from it.

  Raises:
    UserError: there is no such run or stage, or no checkpoint of it can be read.
  """
  from score_jax.experiment.results import load_finished_model

  found = load_finished_model(root, stage)
  return found.model, _decoding(found.config.student)


def _decoding(c: Any) -> dict[str, Any]:
  """A run's decoding in the words of generation_config.json."""
  if not c.temperature:
    return {"do_sample": False, "repetition_penalty": c.repetition_penalty}
  names = ("temperature", "top_k", "top_p", "repetition_penalty")
  return {"do_sample": True} | {name: c[name] for name in names}


def load_named_model(name: str, dtype: str) -> Any:
  """A model by name, with the method's tags in its vocabulary."""
  from score_jax.experiment.experiment import load_tagged_model

  return load_tagged_model(name, dtype=dtype)


def _handed_over(args: argparse.Namespace) -> str:
  """Writes trajectories in the form that --trajectories names; what there is to say of it.

  Raises:
    UserError: there are none, or --out cannot be written.
  """
  from score_jax import trl_records

  if args.workdir:
    trajectories, tokenizer = trl_records.read_run_trajectories(args.workdir, args.stage)
  else:
    tokenizer = trl_records.load_tagged_tokenizer(args.model)
    trajectories = trl_records.read_trajectory_file(args.file, tokenizer)
  made, left_out = trl_records.make_records(args.trajectories, trajectories, tokenizer)
  trl_records.write_records(args.out, made)
  return "; ".join([f"{args.out}, {len(made)} records", *(f"left out: {n} {why}" for why, n in left_out.items())])


def _free(name: str) -> pathlib.Path:
  """A folder that can be written.

  Raises:
    UserError: it is not local, not empty, or cannot be made.
  """
  out = pathlib.Path(name)
  if "://" in name:
    raise UserError(f"--out={name} is not local; give a local folder and copy it there")
  try:
    if out.exists() and any(out.iterdir()):
      raise UserError(f"--out={name} is not empty; give a new folder")
    out.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"--out={name} cannot be written ({error.strerror}); give another folder") from error
  return out


def main() -> int:
  parser = argparse.ArgumentParser(
    prog="python -m score_jax.export",
    description="Writes a Hugging Face model that transformers and vLLM load as it is; or trajectories that TRL reads.",
    epilog="examples: python -m score_jax.export --workdir=runs/quickstart --stage=rl --out=exported; "
    "python -m score_jax.export --model=smollm2 --out=exported --dtype=bfloat16. "
    "Exit status: 0 done, 1 failed (one line says why), 2 wrong usage.",
  )
  origin = parser.add_mutually_exclusive_group(required=True)
  origin.add_argument("--workdir", metavar="DIR", help="the folder of a run; --stage says which of its models")
  origin.add_argument("--model", metavar="NAME", help="a model folder, .gguf file, Hugging Face id, or smollm2")
  parser.add_argument("--stage", help="such as sft or rl; untrained: the student as it came, with the tags")
  parser.add_argument(
    "--trajectories", choices=TRL_FORMATS, help="writes these of a run's stage, or of --file, to --out=FILE"
  )
  parser.add_argument(
    "--file", metavar="FILE", help="trajectories of a part file or of the release, for --model's tokens"
  )
  parser.add_argument("--out", required=True, metavar="DIR", help="new or empty, local")
  parser.add_argument("--dtype", default="bfloat16", choices=DTYPES, help="of the weights (default: %(default)s)")
  parser.add_argument(
    "--shard_gb",
    default=5.0,
    type=make_argparse_type(POSITIVE),
    help="greatest file, in 10^9 bytes (default: %(default)s)",
  )
  args = parser.parse_args()
  if bool(args.workdir) != bool(args.stage):
    parser.error("--stage goes with --workdir")
  if bool(args.file) != bool(args.model and args.trajectories):
    parser.error("--file goes with --model and --trajectories")
  set_jax_environment()
  try:
    if args.trajectories:
      print(f"written: {_handed_over(args)}")
      return 0
    out = _free(args.out)
    model, decoding = (
      load_stage_model(args.workdir, args.stage) if args.workdir else (load_named_model(args.model, args.dtype), {})
    )
    export_model(model, out, dtype=args.dtype, shard_gb=args.shard_gb, decoding=decoding)
  except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  print(f"written: {out}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
