"""`lanefleet bench`: load for a running fleet, what it answered, and how two runs compare."""
