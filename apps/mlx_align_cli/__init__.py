"""The `mlx-align` command: thin. It parses, calls the engine's public face and shows what the engine says."""
