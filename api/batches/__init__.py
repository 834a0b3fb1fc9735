"""Uploaded files, and batches over them, for the routes in OpenAI's shape."""
