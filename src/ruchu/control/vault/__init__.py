"""Secrets at rest: sealed under the key of the server, each bound to what it belongs to."""
