"""Webhooks on the side of the API: who is told of a job, endpoints, the log of deliveries."""
