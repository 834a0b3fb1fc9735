"""`lanefleet enqueue`: runs a model over files of any size, and goes on where it was stopped."""
