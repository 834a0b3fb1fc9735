"""Generators: the embedded decoder, and servers with OpenAI's interface."""
