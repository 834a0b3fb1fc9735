"""Lanes whose work is steps: rows on the device, and what becomes of their tokens."""
