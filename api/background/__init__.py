"""What goes on beside requests, in the same event loop."""
