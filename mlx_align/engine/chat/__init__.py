"""The chat engine: a process that holds one model and streams its answers to whoever started it."""
