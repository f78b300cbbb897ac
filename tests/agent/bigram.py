"""A small decoder whose turns are of the protocol's form more often than not, without any training.

The last token all but decides the next one: embeddings are unit vectors and the unembedding holds a table of
scores; what random attention adds makes each draw depend on the whole context. Codes are numbers, so they run:

    <first_thought>plan</first_thought>     <thought>add</thought><code>417</code>
"""

from __future__ import annotations

import jax
import numpy as np
from flax import nnx
from transformers import PreTrainedTokenizerFast

from score_jax.model.config import DecoderConfig
from score_jax.model.decoder import Decoder, Weights, abstract_decoder

#: token -> what may follow it, with the scores in proportion to which it is drawn; Ċ is the end of a line
FOLLOWS: dict[str, dict[str, float]] = {
  "Ċ": {"<first_thought>": 1, "<thought>": 2},
  "<first_thought>": {"plan": 1},
  "plan": {"</first_thought>": 9, "plan": 1},
  "</first_thought>": {"<|im_end|>": 1},
  "<thought>": {"add": 1},
  "add": {"</thought>": 9, "add": 1},
  "</thought>": {"<code>": 1},
  "<code>": dict.fromkeys("123456789", 1),
  **{digit: dict.fromkeys("0123456789", 1.0) | {"</code>": 10.0} for digit in "0123456789"},
  "</code>": {"<|im_end|>": 20, "<code>": 1},
}
UNLIKELY = 1e-6


def bigram(tokenizer: PreTrainedTokenizerFast) -> tuple[DecoderConfig, nnx.GraphDef[Decoder], Weights]:
  """The decoder's shape, structure and weights."""
  ids, size = tokenizer.get_vocab(), len(tokenizer)
  config = DecoderConfig(
    vocab=size, width=size, layers=1, heads=2, kv_heads=1, head_width=8, mlp=8, context=512, tied=False
  )
  scores = np.full((size, size), UNLIKELY, np.float32)
  for token, following in FOLLOWS.items():
    for name, score in following.items():
      scores[ids[token], ids[name]] = score
  graph, shapes = abstract_decoder(config)
  draw = np.random.default_rng(0)
  weights = jax.tree.map(lambda leaf: draw.normal(0.0, 0.1, leaf.shape).astype(np.float32), shapes)
  weights["norm"]["scale"].set_value(np.ones(size, np.float32))
  weights["embedding"].set_value(20 * np.eye(size, dtype=np.float32))
  weights["unembedding"].set_value(np.log(scores).T / np.float32(np.sqrt(size)))
  return config, graph, weights
