"""The training engine: a process of its own that turns a run directory into an adapter."""
