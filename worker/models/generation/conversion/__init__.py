"""Makes folders of safetensors from other formats, in a process of its own with limits."""
