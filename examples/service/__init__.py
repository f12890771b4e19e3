"""A web service that owns a sampler: see `app`."""
