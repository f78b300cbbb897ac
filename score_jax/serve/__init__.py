"""An HTTP server for a model: OpenAI chat completions."""
