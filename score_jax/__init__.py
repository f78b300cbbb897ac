"""score_jax: distil a tool-using language-model agent into a small model, in JAX.

The method is SCoRe (arXiv 2509.14257): the student acts, the teacher corrects
only the earliest error, the student goes on; it is fine-tuned on what comes of
that, and then learns by short-horizon policy gradient from the verified prefix
before the error. docs/method.md tells it whole; recipe.py runs it.
"""

__version__ = "0.1.0"
