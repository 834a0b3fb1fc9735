"""Checks a model: what its author's code does, verb by verb, and whether a backend or precision
agrees with fp32. The model runs in a child process, so that whatever it does ends there.
"""
