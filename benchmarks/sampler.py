"""How fast the sampler is, against transformers' generate and Tunix's sampler on the same weights, and against itself.

    python -m score_jax.export --model=smollm2 --out=/tmp/smollm2 --dtype=float32
    python benchmarks/sampler.py --model=/tmp/smollm2 --tunix=/tmp/tunix/bin/python      (in a venv of its own)
    python benchmarks/sampler.py --model=/tmp/smollm2 --only=c,d,e --plot=/tmp/cost.png

  a   64 single-turn prompts of 64 to 512 tokens, answers of 16 to 256
  b   64 agent trajectories of 1 to 8 turns of 32 to 128 tokens, observations of 8 to 256, tools that take 0 to 200 ms
  c   groups of 16 from one prefix of 1,024 tokens: a fork against prefilling sixteen times, and the bits of both
  d   a decode step's cost by filled length and by slots
  e   decoding at batch 1 against a bare chain of matrix-vector products over the same weights

Lengths are given and nothing stops earlier, so all draw the same number of tokens. Useful tokens are those of answers;
seconds of a and b run from the first prompt to the last answer, the tools' time included, compilation not. The peers
(sampler_peers.py, a process each) work in static batches, b turn by turn with the whole context read again, as they are
used; each at the best of --batches. `--json` prints one line a comparison.
"""

from __future__ import annotations

import argparse
import heapq
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax.limits import POSITIVE_INT, make_argparse_type
from score_jax.model import pretrained
from score_jax.model.decoder import abstract_decoder
from score_jax.model.sharding import make_mesh
from score_jax.runtime.backend import keep_freed_memory
from score_jax.sampler.programs import SamplerPrograms
from score_jax.sampler.scheduler import Sampler
from score_jax.sampler.slots import ProgramShapes, SamplerMeter, SamplingParams, Slots, request_key
from score_jax.sampler.stops import Stops

PLAIN = SamplingParams(1.0, 0, 1.0, 1.0)
PREFIX, GROUP = 1024, 16
Work = list[dict[str, Any]]  # as sampler_peers.py reads them


def workloads(vocab: int, count: int, seed: int = 0) -> dict[str, Work]:
  """a and b; tokens are random, since only their number matters."""
  draw = np.random.default_rng(seed)

  def tokens(low: int, high: int) -> list[int]:
    return draw.integers(3, vocab, draw.integers(low, high + 1)).tolist()

  def turns() -> Work:
    number = int(draw.integers(1, 9))
    return [
      {
        "answer": int(draw.integers(32, 129)),
        "observation": tokens(8, 256),
        "latency_s": float(draw.uniform(0.0, 0.2)),
      }
      for _ in range(number)
    ]

  a = [{"prompt": tokens(64, 512), "answer": int(draw.integers(16, 257))} for _ in range(count)]
  b = [{"prompt": tokens(64, 512), "turns": turns()} for _ in range(count)]
  return {"a": a, "b": b}


def as_turns(one: dict[str, Any]) -> Work:
  """What a request of either workload does."""
  return one.get("turns") or [{"answer": one["answer"], "observation": [], "latency_s": 0.0}]


class Model:
  """A model's weights and the samplers made of it."""

  def __init__(self, path: str, dtype: str):
    found = pretrained.open_pretrained(path)
    self.config, self.dtype = found.config, dtype
    self.weights = found.load_weights(found.config, dtype=dtype)
    self._made: dict[tuple[int, int, int], SamplerPrograms] = {}  # by slots, length and block

  def slots(
    self, *, count: int, length: int, shapes: ProgramShapes, block: int = 256, meter: SamplerMeter | None = None
  ) -> Slots:
    key = (count, length, block)
    if key not in self._made:
      graph, mesh = abstract_decoder(self.config)[0], make_mesh((1, 1, 1), devices=jax.devices()[:1])
      sizes = {"slots": count, "length": length, "block": block}
      self._made[key] = SamplerPrograms(graph, self.config, mesh, **sizes, stops=Stops((-1,)), dtype=self.dtype)
    return Slots(self._made[key], self.weights, shapes, meter)


def run(sampler: Sampler, work: Work) -> int:
  """All requests of a workload to their ends, tools answering after their time; how many tokens were drawn."""
  left = {i: iter(as_turns(one)) for i, one in enumerate(work)}
  turn = {i: next(turns) for i, turns in left.items()}
  tools: list[tuple[float, int]] = []
  drawn = 0
  for i, one in enumerate(work):
    sampler.submit({i: request_key(0, str(i))}, one["prompt"], PLAIN, turn[i]["answer"])
  while left:
    sampler.launch()
    for name, written in sampler.collect().items():
      i = int(str(name))
      drawn += len(written.tokens)
      heapq.heappush(tools, (time.monotonic() + turn[i]["latency_s"], i))
    while tools and (tools[0][0] <= time.monotonic() or not sampler.drawing):
      due, i = heapq.heappop(tools)
      with sampler.slots.meter.timed("tool_wait_s"):
        time.sleep(max(due - time.monotonic(), 0.0))
      observation, after = turn[i]["observation"], next(left[i], {})
      if after:
        sampler.append(i, observation, after["answer"])
        turn[i] = after
      else:
        sampler.release(i)
        del left[i]
  return drawn


def longest(work: Work) -> int:
  return max(len(one["prompt"]) + sum(t["answer"] + len(t["observation"]) for t in as_turns(one)) for one in work)


def ours(model: Model, work: Work, args: argparse.Namespace) -> dict[str, Any]:
  """The best of some numbers of slots; each does the workload twice, and the second time counts."""
  best: dict[str, Any] = {}
  length = -(-longest(work) // args.block) * args.block
  for count in args.slots:
    shapes = ProgramShapes(args.piece, tuple(args.rows), args.decode)
    for timed in (False, True):
      meter = SamplerMeter()
      sampler = Sampler(model.slots(count=count, length=length, shapes=shapes, block=args.block, meter=meter))
      start = time.perf_counter()
      drawn = run(sampler, work)
      seconds = time.perf_counter() - start
      if timed and drawn / seconds > best.get("tokens_per_s", 0.0):
        best = {"slots": count, "useful_tokens": drawn, "seconds": seconds, "tokens_per_s": drawn / seconds}
        best |= {"meter": str(meter), "occupancy": round(meter.metrics()["sampler/occupancy"], 3)}
  return best


def peers(args: argparse.Namespace, work: dict[str, Work]) -> Iterator[dict[str, Any]]:
  """What the peers print, for every batch size."""
  script = pathlib.Path(__file__).parent / "sampler_peers.py"
  with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder) / "work.json"
    file.write_text(json.dumps(work), encoding="utf-8")
    pythons = {"transformers": sys.executable, "tunix": args.tunix}
    for peer, python in ((peer, pythons[peer]) for peer in args.peers):
      for batch in args.batches if python else ():
        command = [python, str(script), f"--peer={peer}", f"--model={args.model}", f"--work={file}"]
        command += [f"--batch={batch}", f"--dtype={args.dtype}", f"--malloc={args.malloc}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, encoding="utf-8")
        if done.returncode:
          print(f"{peer} at batch {batch}: failed with status {done.returncode}", file=sys.stderr)
        yield from map(json.loads, filter(None, done.stdout.split("\n")))


def side_by_side(model: Model, args: argparse.Namespace, say: Callable[..., None]) -> Iterator[dict[str, Any]]:
  """a and b."""
  every = workloads(model.config.vocab, args.requests)
  work = {name: every[name] for name in every if name in args.only}
  mine = {name: ours(model, work[name], args) for name in work}
  for name, found in mine.items():
    say(f"{name}: score_jax, {found['slots']} slots: {found['tokens_per_s']:.0f} tokens/s ({found['meter']})")
  theirs: dict[tuple[str, str], dict[str, Any]] = {}
  for one in peers(args, work) if work else ():
    say(f"{one['workload']}: {one['peer']}, batches of {one['batch']}: {one['tokens_per_s']:.0f} tokens/s")
    key = one["workload"], one["peer"]
    theirs[key] = max(theirs.get(key, one), one, key=lambda x: x["tokens_per_s"])
  for (name, peer), one in theirs.items():
    ratio = mine[name]["tokens_per_s"] / one["tokens_per_s"]
    say(f"{name}: {ratio:.2f} times {peer}")
    yield {"workload": name, "peer": peer, "ratio": round(ratio, 3), "peer_batch": one["batch"]} | {
      key: mine[name][key] for key in ("slots", "tokens_per_s", "occupancy")
    }


def fork(model: Model, args: argparse.Namespace, say: Callable[..., None]) -> Iterator[dict[str, Any]]:
  """c: until sixteen slots are ready to draw, and what they draw then."""
  prefix = np.random.default_rng(1).integers(3, model.config.vocab, PREFIX).tolist()
  shapes = ProgramShapes(args.piece, tuple(args.rows), 16)
  slots = model.slots(count=GROUP, length=PREFIX + 64, shapes=shapes, block=PREFIX // 2)

  def begin() -> None:
    for slot in range(GROUP):
      slots.clear(slot)
      slots.assign(slot, request_key(0, str(slot)), PLAIN)

  def forked() -> None:
    slots.extend({0: prefix})
    slots.fork([(0, slot) for slot in range(1, GROUP)])

  seconds: dict[str, list[float]] = {"forked": [], "prefilled": []}
  drawn: dict[str, Any] = {}
  ways = {"forked": forked, "prefilled": lambda: slots.extend({slot: prefix for slot in range(GROUP)})}
  for number in range(args.turns + 1):
    for way, do in ways.items():
      begin()
      start = time.perf_counter()
      do()
      if number:
        seconds[way].append(time.perf_counter() - start)
      drawn[way] = slots.decode(dict.fromkeys(range(GROUP), 16))
  took = {way: statistics.median(each) for way, each in seconds.items()}
  ratio, same = took["prefilled"] / took["forked"], drawn["forked"] == drawn["prefilled"]
  say(
    f"c: {ratio:.1f} times faster ready ({took['forked']:.2f} s forked, {took['prefilled']:.2f} prefilled), bits {same}"
  )
  yield {"workload": "c", "peer": "prefilling", "ratio": round(ratio, 2), "bit_equal": same, "seconds": took}


def step_seconds(slots: Slots, filled: int, turns: int) -> float:
  """The least time of a decode step with every slot filled so far."""
  count, n = slots.count, 8
  for slot in range(count):
    slots.clear(slot)
    slots.assign(slot, request_key(0, str(slot)), PLAIN)
  slots.extend({slot: [5] * filled for slot in range(count)})
  times: list[float] = []
  for _ in range(turns + 1):
    start = time.perf_counter()
    slots.decode(dict.fromkeys(range(count), n))
    times.append((time.perf_counter() - start) / n)
  return min(times[1:])


def cost(model: Model, args: argparse.Namespace, say: Callable[..., None]) -> Iterator[dict[str, Any]]:
  """d: by filled length, and by slots."""
  shapes = ProgramShapes(args.piece, tuple(args.rows), 8)
  found: dict[str, list[tuple[int, float]]] = {"length": [], "slots": []}
  for filled in (64, 192, 448, 960, 1984):
    slots = model.slots(count=8, length=2048, shapes=shapes, block=256)
    found["length"].append((filled, step_seconds(slots, filled, args.turns)))
  for count in (1, 2, 4, 8, 16, 32, 64):
    slots = model.slots(count=count, length=512, shapes=shapes, block=256)
    found["slots"].append((count, step_seconds(slots, 192, args.turns)))
  for by, points in found.items():
    say(f"d: a step by {by}: {', '.join(f'{x}: {1e3 * s:.1f} ms' for x, s in points)}")
  if args.plot:
    plot(found, args.plot)
  yield {"workload": "d", "peer": "itself", "ratio": None, "step_seconds": found}


def plot(found: dict[str, list[tuple[int, float]]], file: str) -> None:
  from matplotlib import pyplot

  figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.2), sharey=True)
  labels = {"length": "tokens of each of 8 contexts", "slots": "slots, 192 tokens each"}
  for axis, (by, points) in zip(axes, found.items(), strict=True):
    axis.plot(*zip(*((x, 1e3 * s) for x, s in points), strict=True), marker="o")
    axis.set(xlabel=labels[by], ylabel="ms a decode step", xscale="log")
  axes[0].set_ylim(0, 1.1e3 * max(seconds for points in found.values() for _, seconds in points))
  figure.tight_layout()
  figure.savefig(file, dpi=150)


def bare(model: Model, args: argparse.Namespace, say: Callable[..., None]) -> Iterator[dict[str, Any]]:
  """e: a step of one slot against the products of its weights alone."""
  matrices = [x for x in jax.tree.leaves(model.weights) if x.ndim == 2]

  def chain(x: jax.Array, matrices: Sequence[jax.Array]) -> jax.Array:
    for matrix in matrices:
      ahead = matrix if matrix.shape[0] < matrix.shape[1] or matrix.shape[0] <= 4096 else matrix.T  # the vocabulary's
      x = jnp.resize(x, ahead.shape[:1]) @ ahead
    return x * 1e-6

  product = jax.jit(
    lambda x, matrices: jax.lax.fori_loop(0, 8, lambda _, x: jnp.resize(chain(x, matrices), x.shape), x)
  )
  x = jnp.ones(model.config.width, matrices[0].dtype)
  slots = model.slots(count=1, length=512, shapes=ProgramShapes(args.piece, tuple(args.rows), 8), block=256)
  ratios: list[float] = []
  jax.block_until_ready(product(x, matrices))
  for _ in range(args.turns):
    start = time.perf_counter()
    jax.block_until_ready(product(x, matrices))
    floor = (time.perf_counter() - start) / 8
    ratios.append(floor / step_seconds(slots, 128, 2))
  ratio = statistics.median(ratios)
  say(f"e: a step of one slot runs at {ratio:.2f} of the speed of its bare matrix-vector products")
  yield {
    "workload": "e",
    "peer": "matrix-vector chain",
    "ratio": round(ratio, 3),
    "turns": [round(r, 3) for r in ratios],
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--model", default="smollm2", help="a Hugging Face folder; for a and b with peers it must be one")
  parser.add_argument(
    "--tunix", default="", help="the Python of a virtual environment with google-tunix; none: left out"
  )
  parser.add_argument("--peers", type=lambda s: s.split(","), default=["transformers", "tunix"], help="of a and b")
  parser.add_argument("--only", type=lambda s: s.split(","), default=list("abcde"), help="such as a,c")
  parser.add_argument("--requests", type=make_argparse_type(POSITIVE_INT), default=64, help="of a and b")
  parser.add_argument(
    "--batches",
    type=lambda s: [int(x) for x in s.split(",") if x],
    default=[8, 16, 32],
    help="of peers; empty: none run",
  )
  parser.add_argument("--slots", type=lambda s: [int(x) for x in s.split(",")], default=[16, 32], help="of ours")
  parser.add_argument("--piece", type=make_argparse_type(POSITIVE_INT), default=32)
  parser.add_argument("--rows", type=lambda s: [int(x) for x in s.split(",")], default=[2, 8])
  parser.add_argument("--decode", type=make_argparse_type(POSITIVE_INT), default=32)
  parser.add_argument(
    "--block", type=make_argparse_type(POSITIVE_INT), default=256, help="places of a block of the cache, in a and b"
  )
  parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
  parser.add_argument("--malloc", default="plain", choices=["plain", "kept"], help="of peers")
  parser.add_argument("--turns", type=make_argparse_type(POSITIVE_INT), default=5, help="of c, d and e")
  parser.add_argument("--plot", default="", help="file for the curves of d")
  parser.add_argument("--json", action="store_true")
  args = parser.parse_args()
  keep_freed_memory()
  say: Callable[..., None] = (lambda *_: None) if args.json else lambda text: print(text, flush=True)
  model = Model(args.model, args.dtype)
  parts = {"a": side_by_side, "c": fork, "d": cost, "e": bare}
  wanted = [part for name, part in parts.items() if name in args.only or (name == "a" and "b" in args.only)]
  for part in wanted:
    for line in part(model, args, say):
      if args.json:
        print(json.dumps(line | {"model": args.model, "dtype": args.dtype}), flush=True)


if __name__ == "__main__":
  main()
