"""Training without labels: a network learns to answer as another does, on inputs of the owner's."""
