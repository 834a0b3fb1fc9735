"""Lanes whose work is steps: admission, turns, and the streams that readers follow."""
