"""One of several processes that talk to each other, for tests: runs Python code with `peers` and `processes`, no JAX.

    python -m tests.runtime.peer LIMITS CODE

LIMITS is a JSON object of `timeout_s`, `silence_s` and `start_s`. The environment says which of how many it is.
"""

from __future__ import annotations

import json
import os
import sys

from score_jax.errors import UserError
from score_jax.runtime import processes
from score_jax.runtime.cluster import detect_cluster
from score_jax.runtime.peers import PeerConnections

place = detect_cluster(os.environ, None)
assert place is not None
index = place.index
try:
  peers = PeerConnections(place, **json.loads(sys.argv[1]))
except UserError as error:
  print(f"error: {error}", file=sys.stderr)
  sys.exit(1)
processes._peers = peers
try:
  exec(sys.argv[2])
except UserError as error:
  peers.fail(str(error), patience_s=0.0)
peers.close()
assert "jax" not in sys.modules
