"""What `lanefleet prune` can make smaller, kind by kind."""
