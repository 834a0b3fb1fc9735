"""The tools for models: programs that make, change or check one, and end with a report."""
