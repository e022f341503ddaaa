"""A client for an OpenAI-compatible API, whoever runs it."""
