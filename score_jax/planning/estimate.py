"""FLOPs by count, and the memory that programs need beside their arrays where they cannot be compiled."""

from __future__ import annotations

from jax.sharding import Mesh
from ml_collections import ConfigDict

from score_jax.model.config import DecoderConfig
from score_jax.planning.chips import Chip

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def train_flops(model: DecoderConfig, rows: int, length: int, *, remat: str) -> float:
  """Forward and backward over whole rows (6 a weight and token, and attention over half the row), and what `remat` and
  the chunks of the logits make again."""
  tokens = rows * length
  forward = tokens * model.flops_per_token(length // 2)
  unembedding = tokens * 2.0 * model.vocab * model.width
  attention = tokens * 4.0 * model.layers * model.heads * model.head_width * (length // 2)
  again = {"none": 0.0, "dots": attention, "full": forward - unembedding}
  return 3.0 * forward + unembedding + again[remat]


def train_temporary(config: ConfigDict, mesh: Mesh, model: DecoderConfig, rows: int, length: int) -> float:
  """Bytes on a device: what layers keep for the backward pass, one layer at work, a chunk's logits, weights cast."""
  size, tensor = BYTES[config.student.dtype], mesh.shape["tensor"]
  tokens = rows * length / (mesh.shape["data"] * mesh.shape["fsdp"])
  at_work = _at_work(model, tensor) * size
  products = (2 * model.width + (2 * model.mlp + 3 * model.heads * model.head_width) / tensor) * size
  kept = {"none": at_work, "dots": products + model.width * size, "full": model.width * size}[config.train.remat]
  chunk = tokens / length * min(config.train.logit_chunk, length)
  logits = 3 * 4.0 * chunk * model.vocab / tensor
  cast = 0.0 if config.train.weights_dtype == config.student.dtype else size * model.parameters / mesh.size
  return tokens * (model.layers * kept + at_work) + logits + cast


def scoring_temporary(config: ConfigDict, mesh: Mesh, role: str, model: DecoderConfig, rows: int, length: int) -> float:
  """Bytes on a device: one layer at work, a chunk's logits, the student's weights cast."""
  size, tensor = BYTES[config[role].dtype], mesh.shape["tensor"]
  tokens = rows * length / (mesh.shape["data"] * mesh.shape["fsdp"])
  chunk = tokens / length * min(config.train.logit_chunk, length)
  same = role == "teacher" or config.train.weights_dtype == config.student.dtype
  cast = 0.0 if same else size * model.parameters / mesh.size
  return tokens * _at_work(model, tensor) * size + 2 * 4.0 * chunk * model.vocab / tensor + cast


def _at_work(model: DecoderConfig, tensor: int) -> float:
  """Numbers of each token that a layer has at once, on a device of so many along the tensor axis."""
  return 6 * model.width + (3 * model.mlp + 4 * model.heads * model.head_width) / tensor


def sampling_temporary(config: ConfigDict, mesh: Mesh, model: DecoderConfig, rows: int, width: int) -> float:
  """Bytes on a device: logits and their order for each row of a decode step, or the scores of an extend."""
  spread, tensor = mesh.shape["data"] * mesh.shape["fsdp"], mesh.shape["tensor"]
  if width == 0:
    return 0.0
  if width == 1:
    return 5 * 4.0 * rows / spread * model.vocab / tensor
  return 2 * 4.0 * rows / spread * model.heads / tensor * width * config.sampler.length


def roofline(flops: float, reads: float, chip: Chip, count: int) -> float:
  """Seconds that a call takes at least: its products at the chips' peak, or its reads at their bandwidth."""
  return max(flops / (chip.flops * count), reads / chip.bandwidth)
