"""Spans of OpenTelemetry; off unless LANEFLEET_TRACES."""
