"""What the API and the courier share of webhooks: events, secrets, endpoints, deliveries."""
