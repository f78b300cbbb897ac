"""How fast another library's sampler does a workload: transformers' generate (torch on CPU), or google-tunix's own.

    python benchmarks/sampler_peers.py --peer=transformers --model=HF_DIR --work=WORK.json --check=GREEDY.json
    TUNIX_PYTHON benchmarks/sampler_peers.py --peer=tunix --model=HF_DIR --work=WORK.json --check=GREEDY.json
    python benchmarks/sampler_peers.py --peer=transformers --model=HF_DIR --work=WORK.json --batch=16

One peer a process, for each wants an environment of its own: this file imports nothing that either lacks. HF_DIR is a
Hugging Face folder of model type llama. Run Tunix with JAX_PLATFORMS=cpu. benchmarks/sampler.py writes WORK.json and
compares; the numbers of tokens are given there, so no token ends an answer:

    {"a": [{"prompt": [id, …], "answer": n}, …],
     "b": [{"prompt": [id, …], "turns": [{"answer": n, "observation": [id, …], "latency_s": x}, …]}, …]}

a: single answers, in batches in order of arrival; a batch runs until its longest answer is done. b: trajectories of
several turns, a batch of them turn by turn: all answers, then all tools at once (the longest latency is slept), then
the whole contexts, observations appended, are prefilled again by the next call, as these libraries do. Trajectories
that have ended take no part in later turns. Tokens are drawn from the whole distribution at temperature 1. Prompts are
padded on the left to the longest of the batch.

What is given to Tunix (0.1.7). Its ids are exact: prompts are strings of ids, no begin token is added, and padding is
-1, which no token is. Its llama3 ignores the configuration's rope_theta and turns by 1,000,000; here it is told the
right one, or it would not compute this model. It compiles a program for each shape; here every call has just the shape
that it needs, and that compilation is not counted: a workload is run twice, the first time without tools, and the
second is timed. Its attention looks at the whole cache in every step: `--cache=call` makes the cache as long as each
call needs, which favours it; `--cache=workload` makes one for the longest call, as its users do. What it does by itself
stays: logits of all tokens of the prompts, and one step more than the longest answer needs.

`--malloc=kept` has glibc keep freed memory as the package does; with a few requests neither peer gained more than the
noise by it.

`--check` does no workload: with transformers it writes the greedy answers to the two first prompts of workload a, with
Tunix it compares its own with them, and fails where they differ.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
PACKAGES = {"transformers": ("transformers", "torch"), "tunix": ("google-tunix", "jax", "flax")}
PAD, NO_TOKEN = -1, -2  # to Tunix; an index of -1 is in bounds, and what is there is masked
CHECKED = 16  # greedy tokens
BRIEF = 2  # tokens of an answer in the first run of transformers, which compiles nothing

Ids = list[int]
#: answers of the given numbers of tokens to prompts, drawn with a seed, or greedy without
Generate = Callable[[list[Ids], list[int], int | None], list[Ids]]


def keep_freed_memory() -> None:
  """As the package does (score_jax/runtime/backend.py); Tunix's environment need not have the package."""
  path = pathlib.Path(__file__).parents[1] / "score_jax" / "mesh" / "allocator.py"
  spec = importlib.util.spec_from_file_location("allocator", path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  module.keep_freed_memory()


# The peers


def transformers_peer(folder: str, dtype: str) -> Generate:
  torch: Any = importlib.import_module("torch")
  theirs: Any = importlib.import_module("transformers")
  torch.set_num_threads(CORES)
  model = theirs.AutoModelForCausalLM.from_pretrained(
    folder, dtype=getattr(torch, dtype), attn_implementation="sdpa"
  ).eval()
  model.generation_config = theirs.GenerationConfig(pad_token_id=0)  # without an end token

  class AtLength(theirs.StoppingCriteria):  # type: ignore[misc, name-defined]
    """A row is done when it has its own length."""

    def __init__(self, lengths: list[int]):
      self.lengths = torch.tensor(lengths)

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
      return input_ids.shape[1] >= self.lengths

  @torch.inference_mode()
  def generate(prompts: list[Ids], lengths: list[int], seed: int | None) -> list[Ids]:
    if seed is not None:
      torch.manual_seed(seed)
    width = max(map(len, prompts))
    padded = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    drawing = (
      {"do_sample": False} if seed is None else {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    )
    stop = theirs.StoppingCriteriaList([AtLength([width + n for n in lengths])])
    out = model.generate(
      padded, attention_mask=mask, max_new_tokens=max(lengths), stopping_criteria=stop, use_cache=True, **drawing
    )
    return [row[width : width + n] for row, n in zip(out.tolist(), lengths, strict=True)]

  return generate


class Numbers:
  """The tokenizer that Tunix is given: text is ids with spaces between them."""

  def encode(self, text: str, **_: Any) -> Ids:
    return [int(word) for word in text.split()]

  def decode(self, ids: Ids, **_: Any) -> str:
    return " ".join(map(str, ids))

  def bos_id(self) -> None:
    return None

  def eos_id(self) -> int:
    return NO_TOKEN

  def pad_id(self) -> int:
    return PAD


def tunix_model(folder: str, dtype: str) -> Any:
  """Its llama3 with the weights of a folder."""
  models: Any = importlib.import_module("tunix.models.llama3.model")
  params: Any = importlib.import_module("tunix.models.llama3.params")
  data = json.loads((pathlib.Path(folder) / "config.json").read_text(encoding="utf-8"))
  rope = {"rope_theta": data.get("rope_theta")} | (data.get("rope_scaling") or {}) | (data.get("rope_parameters") or {})
  if data["model_type"] != "llama" or rope.get("rope_type", "default") != "default":
    sys.exit(f"{folder}: Tunix's llama3 is a model of type llama without rope scaling")
  heads, width = data["num_attention_heads"], data["hidden_size"]
  config = models.ModelConfig(
    num_layers=data["num_hidden_layers"],
    vocab_size=data["vocab_size"],
    embed_dim=width,
    hidden_dim=data["intermediate_size"],
    num_heads=heads,
    head_dim=data.get("head_dim") or width // heads,
    num_kv_heads=data.get("num_key_value_heads") or heads,
    rope_theta=rope["rope_theta"],
    norm_eps=data["rms_norm_eps"],
    weight_tying=data["tie_word_embeddings"],
  )
  models.apply_rope = functools.partial(models.apply_rope, rope_theta=rope["rope_theta"])  # see above
  return params.create_model_from_safe_tensors(folder, config, dtype=importlib.import_module("jax.numpy").dtype(dtype))


def tunix_peer(folder: str, dtype: str, cache: int) -> Generate:
  """With a cache of so many tokens; 0: of those that each call needs."""
  samplers: Any = importlib.import_module("tunix.generate.sampler")
  model = tunix_model(folder, dtype)

  def room(size: int) -> Any:
    c = model.config
    return samplers.CacheConfig(size, c.num_layers, c.num_kv_heads, c.head_dim)

  sampler = samplers.Sampler(model, Numbers(), room(cache))

  def generate(prompts: list[Ids], lengths: list[int], seed: int | None) -> list[Ids]:
    width, steps = max(map(len, prompts)), max(lengths)
    if not cache:
      sampler.cache_config = room(width + steps)  # programs are told apart by the cache's shape too
    drawing = {} if seed is None else {"temperature": 1.0, "top_p": 1.0, "seed": seed}
    texts = [" ".join(map(str, p)) for p in prompts]
    out = sampler(texts, max_generation_steps=steps, max_prompt_length=width, eos_tokens=[NO_TOKEN], **drawing)
    return [row[:n].tolist() for row, n in zip(out.tokens, lengths, strict=True)]

  return generate


# The workloads


def batches(requests: list[Any], size: int) -> list[list[Any]]:
  return [requests[i : i + size] for i in range(0, len(requests), size)]


def single_answers(generate: Generate, requests: list[Any], size: int, sleep: Callable[[float], None]) -> None:
  """Workload a."""
  for seed, batch in enumerate(batches(requests, size)):
    generate([r["prompt"] for r in batch], [r["answer"] for r in batch], seed)


def trajectories(generate: Generate, requests: list[Any], size: int, sleep: Callable[[float], None]) -> None:
  """Workload b."""
  seed = 0
  for batch in batches(requests, size):
    contexts = [r["prompt"] for r in batch]
    for turn in range(max(len(r["turns"]) for r in batch)):
      going = [i for i, r in enumerate(batch) if turn < len(r["turns"])]
      now = [batch[i]["turns"][turn] for i in going]
      answers = generate([contexts[i] for i in going], [t["answer"] for t in now], seed)
      seed += 1
      sleep(max(t["latency_s"] for t in now))
      for i, answer, t in zip(going, answers, now, strict=True):
        contexts[i] = contexts[i] + answer + t["observation"]


WORKLOADS = {"a": single_answers, "b": trajectories}


def asked(requests: list[Any]) -> int:
  """Tokens of all answers."""
  return sum(t["answer"] for r in requests for t in r.get("turns", [r]))


def longest_call(name: str, requests: list[Any], size: int) -> int:
  """Tokens of the longest padded prompt of a call with its longest answer."""
  longest = 0

  def only_look(prompts: list[Ids], lengths: list[int], seed: int | None) -> list[Ids]:
    nonlocal longest
    longest = max(longest, max(map(len, prompts)) + max(lengths))
    return [[0] * n for n in lengths]

  WORKLOADS[name](only_look, requests, size, lambda _: None)
  return longest


def counted(generate: Generate) -> tuple[Generate, Callable[[], int]]:
  """One that counts the tokens of the answers that it gives, and what gives that number."""
  tokens = 0

  def counting(prompts: list[Ids], lengths: list[int], seed: int | None) -> list[Ids]:
    nonlocal tokens
    answers = generate(prompts, lengths, seed)
    tokens += sum(map(len, answers))
    return answers

  return counting, lambda: tokens


# What is done


def make(args: argparse.Namespace, cache: int) -> Generate:
  if args.peer == "transformers":
    return transformers_peer(args.model, args.dtype)
  return tunix_peer(args.model, args.dtype, cache)


def check(args: argparse.Namespace, requests: list[Any]) -> None:
  """Writes the greedy answers, or compares with them."""
  generate = make(args, 0)
  if args.peer == "transformers":
    prompts = [r["prompt"] for r in requests[:2]]
    answers = generate(prompts, [CHECKED] * len(prompts), None)
    pathlib.Path(args.check).write_text(json.dumps({"prompts": prompts, "tokens": answers}), encoding="utf-8")
    print(f"written: {args.check}")
    return
  told = json.loads(pathlib.Path(args.check).read_text(encoding="utf-8"))
  for its, right in zip(generate(told["prompts"], [CHECKED] * len(told["prompts"]), None), told["tokens"], strict=True):
    if its != right:
      sys.exit(f"greedy tokens differ: {its} by {args.peer}, {right} in {args.check}")
  print(f"the same greedy tokens as in {args.check}")


def measure(args: argparse.Namespace, generate: Generate, name: str, requests: list[Any]) -> dict[str, Any]:
  """Does a workload, and says how long it took; `warm_up_s` is not counted."""
  run, start = WORKLOADS[name], time.perf_counter()
  if args.peer == "tunix":
    run(generate, requests, args.batch, lambda _: None)  # every shape is compiled here
  else:
    first = requests[: args.batch]
    generate([r["prompt"] for r in first], [BRIEF] * len(first), 0)
  warm = time.perf_counter()
  counting, tokens = counted(generate)
  run(counting, requests, args.batch, time.sleep)
  seconds = time.perf_counter() - warm
  assert tokens() == asked(requests), (tokens(), asked(requests))
  facts = {"peer": args.peer, "workload": name, "batch": args.batch, "dtype": args.dtype, "requests": len(requests)}
  took = {"useful_tokens": tokens(), "seconds": round(seconds, 3), "tokens_per_s": round(tokens() / seconds, 2)}
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # of the process so far
  more = {"warm_up_s": round(warm - start, 1), "peak_gb": round(peak, 2), "cores": CORES, "malloc": args.malloc}
  more |= {"cache": args.cache} if args.peer == "tunix" else {}
  return facts | took | more | {"longest": longest_call(name, requests, args.batch)}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--peer", required=True, choices=sorted(PACKAGES))
  parser.add_argument("--model", required=True, help="a Hugging Face folder")
  parser.add_argument("--work", required=True, help="the workloads; see above")
  parser.add_argument("--batch", type=int, default=16)
  parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
  parser.add_argument("--limit", type=int, default=0, help="so many first requests of each workload; 0: all")
  parser.add_argument("--cache", default="call", choices=["call", "workload"], help="of Tunix; see above")
  parser.add_argument("--malloc", default="plain", choices=["plain", "kept"], help="kept: freed memory is kept")
  parser.add_argument("--check", default="", help="write or compare greedy tokens; see above")
  args = parser.parse_args()
  if args.malloc == "kept":
    keep_freed_memory()
  work = json.loads(pathlib.Path(args.work).read_text(encoding="utf-8"))
  work = {name: work[name][: args.limit or None] for name in WORKLOADS if work.get(name)}
  if args.check:
    return check(args, work["a"])
  versions = {name: importlib.metadata.version(name) for name in PACKAGES[args.peer]}
  for name, requests in work.items():
    cache = longest_call(name, requests, args.batch) if args.cache == "workload" else 0
    line = measure(args, make(args, cache), name, requests)
    print(json.dumps(line | {"versions": versions}), flush=True)


if __name__ == "__main__":
  main()
