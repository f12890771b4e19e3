"""What runs in a worker process, and the messages that it and the sampler process exchange."""
