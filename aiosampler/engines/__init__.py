"""What runs in the sampler process: an engine for each kind of sampler, trying out, and what is lost with a worker."""
