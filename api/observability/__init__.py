"""What Prometheus is told by the API."""
