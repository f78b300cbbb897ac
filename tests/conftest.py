"""Eight virtual CPU devices, strict promotion of dtypes and ranks, and a tiny decoder that hides no mistakes."""

from __future__ import annotations

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import AxisType, Mesh

from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import Decoder, Weights, abstract_decoder
from score_jax.model.sharding import MESH_AXES, Meshes, leaf_path, make_mesh
from score_jax.train.step import ForwardConfig

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


#: how train steps of tiny decoders compute
PASSES = ForwardConfig(1.0, logit_chunk=8, attention="auto", remat="none", dtype="float32", weights_dtype="float32")


#: the files that take longest, which begin first: one that began late would keep one worker after all others are idle
LONGEST = (
  *("test_main", "plan/test_compiled", "plan/test_plan", "train/test_step", "sampler/test_scheduler"),
  *("agent/test_hosts", "grading/test_math_grader", "runtime/test_peers", "model/test_gguf", "test_evaluate_models"),
  *("teaching/test_demonstrations", "sampler/test_sampling", "sandbox/test_sandbox", "model/test_families"),
  *("train/test_sft", "model/test_hugging_face", "train/test_losses", "report/test_page"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  folder = pathlib.Path(__file__).parent
  ranks = {folder / f"{name}.py": rank for rank, name in enumerate(LONGEST)}
  items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(scope="session", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
  """Tests run in an empty folder: none may need the checkout as working directory."""
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(tmp_path_factory.mktemp("elsewhere"))
    yield


@dataclasses.dataclass(frozen=True)
class Tiny:
  """A decoder small enough to compile in a second."""

  config: DecoderConfig
  graph: nnx.GraphDef[Decoder]
  weights: Weights

  @property
  def model(self) -> Decoder:
    return nnx.merge(self.graph, self.weights)


def stacked(tiny: Tiny) -> Tiny:
  """The same decoder with its layers in one stack."""
  config = dataclasses.replace(tiny.config, stacked=True)
  graph, shapes = abstract_decoder(config)
  flat = {leaf_path(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tiny.weights)}

  def gather(path: Any, _: Any) -> jax.Array:
    head, *rest = leaf_path(path)
    if head != "blocks":
      return flat[(head, *rest)]
    return jnp.stack([flat[(head, str(i), *rest)] for i in range(config.layers)])

  return Tiny(config, graph, jax.tree_util.tree_map_with_path(gather, shapes))


@pytest.fixture(scope="session")
def make_tiny() -> Callable[..., Tiny]:
  """Makes tiny decoders; fields of the configuration can be given by name.

  Every weight is drawn with deviation 0.25: at the default initialisation attention is
  nearly uniform and biases are 0, so that a wrong rope base or a lost bias would not show.
  """

  def make(**fields: Any) -> Tiny:
    shape = {"vocab": 64, "width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "head_width": 8, "mlp": 64}
    config = DecoderConfig(**{**shape, "context": 512, "rope_base": 5000.0, **fields})
    graph, shapes = abstract_decoder(config)
    draw = np.random.default_rng(1)

    def noisy(path: Any, x: jax.ShapeDtypeStruct) -> jax.Array:
      mean = 1.0 if leaf_path(path)[-1] == "scale" else 0.0
      return jax.device_put(draw.normal(mean, 0.25, x.shape).astype(x.dtype))

    return Tiny(config, graph, jax.tree_util.tree_map_with_path(noisy, shapes))

  return make


@pytest.fixture(scope="session")
def tiny(make_tiny: Callable[..., Tiny]) -> Tiny:
  return make_tiny()


@pytest.fixture(scope="session")
def one_device() -> Mesh:
  """A mesh over the first device alone."""
  return Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


@pytest.fixture(scope="module")
def on_one_device(one_device: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
  """For modules of whole runs: as the command runs them on a user's machine, which is much faster.

  That is on one device, and with compiled programs kept; here for the other workers too.
  """
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Meshes, "of", lambda _: Meshes(one_device, one_device, one_device))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.getbasetemp().parent / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    yield
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def eight_devices() -> Mesh:
  """Every axis split in two."""
  return make_mesh((2, 2, 2))


@pytest.fixture(scope="module")
def standard_promotion() -> Iterator[None]:
  """For modules that run the optimiser: optax mixes integers and floats."""
  with jax.numpy_dtype_promotion("standard"):
    yield


@pytest.fixture(scope="module")
def lenient_promotion(standard_promotion: None) -> Iterator[None]:
  """For modules that run whole stages: optax's schedules mix ranks too."""
  with jax.numpy_rank_promotion("allow"):
    yield
