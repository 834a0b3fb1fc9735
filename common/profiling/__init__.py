"""Profiling of a running process by its own user on its own machine; nothing of it is on HTTP."""
