"""Runs batches: feeds their lines to the lanes of their models, and writes down the results."""
