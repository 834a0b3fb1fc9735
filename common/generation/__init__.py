"""What both sides know of text generation: the options of a request, and the stream of a job."""
