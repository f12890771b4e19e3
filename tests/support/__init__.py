"""What tests share: environments, agents, samplers of every kind, the serial loop in this process, and its children."""
