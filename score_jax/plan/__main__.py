"""Says ahead of time, with no accelerator, whether each program of a recipe compiles and fits, and what a run takes.

    pip install -e ".[tpu]"
    python -m score_jax.plan --config=configs/score_qwen2_5_7b.py --topology=v5e:8x8
    python -m score_jax.plan --config=configs/score_qwen2_5_0_5b.py --topology=h100:1 --json

TPU programs are really compiled, by libtpu; for GPUs the figures are estimates
from shapes, and called so. The plan is a necessary check and no measure of speed:
a roofline is what the chips cannot beat. Exit status 0: all fits; 1: something
does not, or cannot be planned; 2: wrong usage.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys

from absl import flags
from ml_collections import ConfigDict

from score_jax.command import run_command
from score_jax.errors import UserError

TOPOLOGY = flags.DEFINE_string("topology", None, "Chips: v5e:8x8, v5p:2x4x4, v6e:8x8, v5e:1, h100:8, t4:1, …")
JSON = flags.DEFINE_bool("json", False, "Print one JSON object and nothing else")


def print_plan(config: ConfigDict, _: str) -> None:
  """Plans every program of `config` on --topology, and prints what came of it."""
  if "stages" not in config:
    raise UserError("--config: it has no stages to plan; give that of a recipe, such as configs/quickstart.py")
  if not TOPOLOGY.value:
    raise UserError("--topology=KIND:SHAPE is missing; try --topology=v5e:8x8")
  os.environ["JAX_PLATFORMS"] = "cpu"
  os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # a program for chips that are not here is not read back
  from score_jax.experiment import stages
  from score_jax.plan import cost
  from score_jax.plan.cost import estimate_stage_hours, make_planning_meshes, pad_vocab_for_tags, read_decoder_config
  from score_jax.plan.fit import plan_program
  from score_jax.plan.memory import GIB, list_peak_arrays_by_stage, parse_topology
  from score_jax.plan.programs import RecipePrograms

  chips = parse_topology(TOPOLOGY.value)
  meshes = make_planning_meshes(config.mesh, chips)
  models = [
    read_decoder_config(config[role]) for role in ("student", "teacher") if config[role].get("kind", "model") == "model"
  ]
  student, *teacher = [pad_vocab_for_tags(m, meshes.vocabulary_multiple) for m in models]
  recipe = RecipePrograms(config, meshes, student, teacher[0] if teacher else None)
  arrays = recipe.arrays()
  planned = []
  for program in recipe.programs():
    one = plan_program(program, arrays, chips)
    planned.append(one)
    if not JSON.value:
      print(cost.format_program(one), flush=True)
  found = {
    "topology": chips.name,
    "chips": chips.count,
    "memory_bytes": int(chips.chip.memory_gib * GIB),
    "compiled": chips.can_compile,
    "fits": all(p.fits for p in planned),
    "programs": [dataclasses.asdict(p) for p in planned],
    "resident": list_peak_arrays_by_stage(
      arrays, ("warm_start", *stages.resolve_stages(config.stages, config.arms), "eval")
    ),
    "stages": estimate_stage_hours(config, planned, chips),
  }
  print(json.dumps(found) if JSON.value else cost.format_summary(found))
  sys.exit(0 if found["fits"] else 1)


if __name__ == "__main__":
  run_command(print_plan)
