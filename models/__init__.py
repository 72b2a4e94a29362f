"""The embedded tiny chat model: its small world, its recipe and its measurements."""
