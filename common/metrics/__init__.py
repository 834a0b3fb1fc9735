"""The metrics that Lanefleet exposes: their declarations, one table."""
