"""Asking a chat model, whoever answers: one on the mesh, or an OpenAI-compatible endpoint."""
