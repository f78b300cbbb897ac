"""How fast an SFT update is, against what the machine's matrix products allow and against transformers + torch.

    python benchmarks/train.py --model=smollm2 --rows=4 --length=512
    python benchmarks/train.py --model=Qwen2.5-1.5B --rows=8 --length=2048 --dtype=bfloat16     (a GPU, no torch)

Processes that take turns, each with a heap of its own: an update by score_jax.train.step.Trainer, and one by
transformers' model of the same weights with torch.optim.AdamW: same packed rows, targets, loss, clipping and rates,
checked by both losses of the first update; before each, in processes of their own, matrix products of the model's
shapes. Every token but a sample's first is learnt: transformers computes all logits whatever is learnt, so fewer would
only help us. A ratio is the median over turns of torch's seconds by ours. torch's threads wait for each other busily:
where something else runs on its cores, its CPU seconds say nothing and its wall clock suffers more than ours; give it
cores of its own, or compare on one (`taskset -c 0`). `--json` prints one line of JSON a comparison.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax.limits import NON_NEGATIVE_INT, POSITIVE_INT, make_argparse_type
from score_jax.model import pretrained, tensors
from score_jax.model.config import MODEL_CONFIGS, DecoderConfig, config_from_hugging_face, config_to_hugging_face
from score_jax.model.decoder import Weights, abstract_decoder, init_decoder
from score_jax.model.sharding import make_mesh
from score_jax.runtime.backend import keep_freed_memory
from score_jax.train.batch import Batch, Example, make_update, pack_examples, take_micro_batch
from score_jax.train.optimizer import make_optimizer, make_schedule
from score_jax.train.step import ForwardConfig, Trainer, make_sft_loss

RATE, BETAS, DECAY, MAX_NORM = 1e-5, (0.9, 0.95), 0.01, 1.0  # betas are those of score_jax.train.optimizer
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
AGREE = 1e-3  # relative difference of the first losses


@dataclasses.dataclass(frozen=True)
class Spent:
  """What one call took."""

  wall_s: float
  cpu_s: float  # of all threads


def timed(call: Callable[[], object]) -> Spent:
  wall, cpu = time.perf_counter(), time.process_time()
  call()
  return Spent(time.perf_counter() - wall, time.process_time() - cpu)


def median(spent: list[Spent]) -> Spent:
  return Spent(statistics.median(s.wall_s for s in spent), statistics.median(s.cpu_s for s in spent))


# What is trained


def model(name: str, layers: int) -> tuple[DecoderConfig, Callable[[], Weights], Callable[[int], np.ndarray]]:
  """A model's shape, what makes its float32 weights, and what gives so many tokens of text.

  A name out of score_jax/model/config.py, or a part of one, gives random weights and tokens of that shape.
  """
  known = next((data for full, data in MODEL_CONFIGS.items() if name.lower() in full.lower()), None)
  if known is not None:
    config = config_from_hugging_face(known)
    config = dataclasses.replace(config, layers=layers or config.layers)
    draw = np.random.default_rng(0)
    return config, lambda: init_decoder(config, 0)[1], lambda n: draw.integers(0, config.vocab, n).astype(np.int32)
  found = pretrained.open_pretrained(name)
  config = dataclasses.replace(found.config, layers=layers or found.config.layers)
  text = (importlib.util.find_spec("argparse") or sys).origin  # type: ignore[union-attr]
  with open(str(text), encoding="utf-8") as file:
    tokens = np.array(found.tokenizer(file.read(), verbose=False)["input_ids"], np.int32)
  at = 0

  def take(n: int) -> np.ndarray:
    nonlocal at
    at += n
    return np.resize(np.roll(tokens, -at), n)

  return config, lambda: found.load_weights(config, dtype="float32"), take


def batch(take: Callable[[int], np.ndarray], *, rows: int, length: int, per_row: int, micro: int) -> Batch:
  """Rows filled to the last token by `per_row` samples each, `micro` rows a micro-batch."""
  sizes = [length // per_row] * (per_row - 1)
  sizes.append(length - sum(sizes))

  def one(size: int) -> Example:
    learnt = np.ones(size, np.float32)
    learnt[0] = 0.0
    return Example(take(size), learnt, np.zeros(size, np.float32))

  packed = pack_examples([one(size) for _ in range(rows) for size in sizes], length=length)
  return make_update(packed, length=length, micro=micro, most=rows)


# The three that take turns


def products(config: DecoderConfig, tokens: int, dtype: str) -> list[tuple[int, int, int]]:
  """(rows, inner, columns) of matrix products of an update; whole devices get one large enough to fill them."""
  d, f = config.width, config.mlp
  shapes = [(tokens, d, f), (tokens, f, d), (d, tokens, f), (min(tokens, 1024), d, config.vocab)]
  return shapes if dtype == "float32" else [*shapes, (8192, 8192, 8192)]


Ceiling = Callable[[], float]  # measures the greatest FLOP/s of a product among some shapes


def ceiling(shapes: list[tuple[int, int, int]], put: Any, multiply: Any, wait: Any, repeats: int) -> Ceiling:
  """That of who puts arrays on the device, multiplies two, and waits for a product."""
  draw = np.random.default_rng(0)
  pairs = [tuple(put(draw.standard_normal(s, np.float32)) for s in ((m, k), (k, n))) for m, k, n in shapes]

  def many(pair: Any) -> Callable[[], object]:
    return lambda: wait([multiply(*pair) for _ in range(repeats)][-1])

  for pair in pairs:
    many(pair)()
  return lambda: max(
    2.0 * m * k * n * repeats / timed(many(pair)).wall_s for pair, (m, k, n) in zip(pairs, shapes, strict=True)
  )


Update = Callable[[], float]  # does one update and gives its loss


def score_jax_update(config: DecoderConfig, begin: Callable[[], Weights], rows: Batch, passes: ForwardConfig) -> Update:
  """Our update, as the stages of a recipe make it."""
  rate = make_schedule(peak=RATE, steps=1000, warmup=0.0, kind="constant")
  rule = make_optimizer("adamw", rate, weight_decay=DECAY, max_norm=MAX_NORM)
  trainer = Trainer(abstract_decoder(config)[0], rule, make_sft_loss(), make_mesh((-1, 1, 1)), passes)
  state = trainer.init_state(begin())

  def update() -> float:
    nonlocal state
    state, numbers = trainer(state, rows)
    jax.block_until_ready(state)
    return float(numbers["loss"])

  return update


def torch_update(torch: Any, config: DecoderConfig, begin: Callable[[], Weights], batch: Batch) -> Update:
  """The same by transformers and torch, whose optimiser is the fused one, its fastest on CPU."""
  import transformers

  torch.set_num_threads(CORES)
  theirs: Any = transformers
  layout = config_to_hugging_face(config)
  network = theirs.AutoModelForCausalLM.from_config(
    theirs.AutoConfig.for_model(**layout), dtype=torch.float32, attn_implementation="sdpa"
  )
  params = {n.name: torch.tensor(n.to_numpy("float32")) for n in tensors.iter_named_tensors(config, begin())}
  missing = network.load_state_dict(params, strict=False)
  assert not missing.unexpected_keys and missing.missing_keys in ([], ["lm_head.weight"]), missing
  network.train()
  rule = torch.optim.AdamW(network.parameters(), lr=RATE, betas=BETAS, eps=1e-8, weight_decay=DECAY, fused=True)

  def inputs(rows: Batch) -> dict[str, Any]:
    tokens, positions = (torch.tensor(x, dtype=torch.long) for x in (rows.tokens, rows.positions))
    labels = torch.where(torch.tensor(rows.loss_mask) > 0, tokens, -100)
    told = {"input_ids": tokens, "labels": labels, "num_items_in_batch": float(rows.denominator)}
    # alone in a row, positions say nothing, and sdpa takes its causal path without a mask
    return told if (rows.segments == 1).all() else told | {"position_ids": positions}

  told = [inputs(take_micro_batch(batch, i)) for i in range(len(batch.tokens))]

  def update() -> float:
    total = 0.0
    for part in told:
      loss = network(**part, use_cache=False).loss
      loss.backward()
      total += float(loss.detach())
    torch.nn.utils.clip_grad_norm_(network.parameters(), MAX_NORM)
    rule.step()
    rule.zero_grad(set_to_none=True)
    return total

  return update


# The comparison


def peer(name: str, work: str, args: argparse.Namespace, pipe: Any) -> None:
  """Serves the turns of one: each time sends how long an update took and its loss, or a product's FLOP/s."""
  keep_freed_memory()
  config, begin, take = model(args.model, args.layers)
  config = dataclasses.replace(config, stacked=args.stacked)
  turn = (updates if work == "update" else multiplications)(name, args, config, begin, take)
  pipe.send((jax.devices()[0].device_kind, config))
  while pipe.recv() != "end":
    pipe.send(turn())


def updates(name: str, args: argparse.Namespace, config: DecoderConfig, begin: Any, take: Any) -> Callable[[], Any]:
  """Does one update, and gives what it took and its loss."""
  micro = (args.micro_rows if name == "score_jax" else args.torch_micro_rows) or args.rows
  rows = batch(take, rows=args.rows, length=args.length, per_row=args.samples, micro=micro)
  if name == "score_jax":
    passes = ForwardConfig(1.0, args.logit_chunk, args.attention, args.remat, args.dtype, "float32")
    update = score_jax_update(config, begin, rows, passes)
  else:
    import torch

    update = torch_update(torch, config, begin, rows)

  def turn() -> tuple[Spent, float]:
    losses: list[float] = []
    spent = timed(lambda: losses.append(update()))
    return spent, losses[0]

  return turn


def multiplications(name: str, args: argparse.Namespace, config: DecoderConfig, *_: Any) -> Ceiling:
  """Measures the products of the model's shapes, in a process of their own: their arrays would split the heap of the
  updates, which then take fresh pages from the kernel."""
  shapes = products(config, args.rows * args.length, args.dtype)
  if name == "score_jax":
    repeats = 1 if jax.default_backend() == "cpu" else 20  # a GPU's are too short for one to be timed
    return ceiling(shapes, lambda x: jnp.asarray(x, args.dtype), jax.jit(jnp.matmul), jax.block_until_ready, repeats)
  import torch

  torch.set_num_threads(CORES)
  return ceiling(shapes, torch.tensor, torch.matmul, lambda x: x, 1)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--model", default="smollm2", help="smollm2, a model folder, or a shape such as Qwen2.5-1.5B")
  parser.add_argument(
    "--layers", type=make_argparse_type(NON_NEGATIVE_INT), default=0, help="so many of its layers; 0: all"
  )
  parser.add_argument("--rows", type=make_argparse_type(POSITIVE_INT), default=4)
  parser.add_argument(
    "--micro-rows",
    type=make_argparse_type(NON_NEGATIVE_INT),
    default=0,
    help="rows of a micro-batch; 0: one micro-batch",
  )
  parser.add_argument(
    "--torch-micro-rows",
    type=make_argparse_type(NON_NEGATIVE_INT),
    default=0,
    help="the same for torch, which may like another",
  )
  parser.add_argument("--length", type=make_argparse_type(POSITIVE_INT), default=512, help="tokens of a row")
  parser.add_argument(
    "--samples", type=make_argparse_type(POSITIVE_INT), default=2, help="trajectories packed into a row"
  )
  parser.add_argument("--dtype", default="float32", help="of our passes; torch is compared in float32 alone")
  parser.add_argument("--attention", default="auto")
  parser.add_argument("--remat", default="none")
  parser.add_argument("--logit-chunk", type=make_argparse_type(POSITIVE_INT), default=512)
  parser.add_argument("--stacked", action="store_true", help="loop over stacked layers")
  parser.add_argument("--turns", type=make_argparse_type(POSITIVE_INT), default=5)
  parser.add_argument("--json", action="store_true")
  args = parser.parse_args()
  say: Callable[..., None] = (lambda *_: None) if args.json else print
  names = ["score_jax"]
  if importlib.util.find_spec("torch") is None:
    say("torch is not installed: no comparison with it")
  elif args.dtype != "float32":
    say("torch is compared in float32 alone")
  else:
    names.append("transformers+torch")

  spawn = multiprocessing.get_context("spawn")
  pipes: dict[tuple[str, str], Any] = {}
  peers: list[Any] = []
  for name in names:
    for work in ("update", "products"):
      pipes[name, work], theirs = spawn.Pipe()
      peers.append(spawn.Process(target=peer, args=(name, work, args, theirs), daemon=True))
      peers[-1].start()
      theirs.close()

  def heard(name: str, work: str) -> Any:
    try:
      return pipes[name, work].recv()
    except EOFError:
      sys.exit(
        f"the process of {name} ended (its own message stands above; without one, the machine's memory was full)"
      )

  found = {one: heard(*one) for one in pipes}
  device, config = found["score_jax", "update"]

  def turn(name: str, work: str) -> Any:
    pipes[name, work].send("turn")
    return heard(name, work)

  first = {name: turn(name, "update")[1] for name in names}
  say(f"loss of the first update: {', '.join(f'{name} {loss:.6f}' for name, loss in first.items())}")
  ours = first["score_jax"]
  for name, loss in first.items():
    if not abs(loss - ours) <= AGREE * abs(ours):
      sys.exit(f"the first losses differ: {ours} here, {loss} by {name}; they do not compute the same")
  for name in names:
    turn(name, "update")  # what the first left in the heap is not what later ones do

  spent: dict[str, list[Spent]] = {name: [] for name in names}
  rates: dict[str, list[float]] = {name: [] for name in names}
  for _ in range(args.turns):
    for name in names:
      rates[name].append(turn(name, "products"))
      spent[name].append(turn(name, "update")[0])
  for pipe, process in zip(pipes.values(), peers, strict=True):
    pipe.send("end")
    process.join()  # else it is killed, of which libtpu, where installed, prints pages
  top = {name: max(each) for name, each in rates.items()}
  peak = max(top.values())
  count = args.rows * args.length
  flops = 3 * config.flops_per_token(args.length // 2) * count  # a token looks at half a row in the mean
  say(f"{device}, {CORES} cores, {config.parameters / 1e6:.0f} M weights, {args.rows} x {args.length} tokens")
  say(f"matrix products: {', '.join(f'{by} {rate / 1e9:.0f} GFLOP/s' for by, rate in top.items())}")
  for name, each in spent.items():
    took = median(each)
    rate = flops / took.wall_s
    say(
      f"{name:>20}: {count / took.wall_s:8.0f} tokens/s, {took.wall_s:.2f} s an update ({took.cpu_s:.2f} CPU seconds), "
      f"{rate / 1e9:.0f} GFLOP/s, {100 * rate / peak:.0f} % of the ceiling"
    )
  workload = f"sft_{'f32' if args.dtype == 'float32' else args.dtype}_{args.rows}x{args.length}"
  facts = {"workload": workload, "model": args.model, "layers": config.layers, "device": device, "turns": args.turns}
  took = median(spent["score_jax"])
  share = flops / took.wall_s / peak
  mine = {"tokens_per_s": round(count / took.wall_s, 1), "ceiling_gflops": round(peak / 1e9)}
  lines: list[dict[str, Any]] = [{**facts, "peer": "matrix products", "ratio": round(share, 3), **mine}]
  for name in names[1:]:
    ratios = [b.wall_s / a.wall_s for a, b in zip(spent["score_jax"], spent[name], strict=True)]
    cpu = [b.cpu_s / a.cpu_s for a, b in zip(spent["score_jax"], spent[name], strict=True)]
    ratio = statistics.median(ratios)
    say(
      f"tokens/s by those of {name}: {ratio:.2f} (turns {', '.join(f'{r:.2f}' for r in ratios)}), "
      f"by CPU seconds {statistics.median(cpu):.2f}"
    )
    theirs = round(count / median(spent[name]).wall_s, 1)
    more = {"ratio": round(ratio, 3), "cpu_ratio": round(statistics.median(cpu), 3), "peer_tokens_per_s": theirs}
    lines.append({**facts, "peer": name, **more, **mine})
  if args.json:
    for line in lines:
      print(json.dumps(line))


if __name__ == "__main__":
  main()
