"""Background tasks that run in the event loop of the requests."""
