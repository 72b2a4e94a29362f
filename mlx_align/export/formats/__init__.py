"""One file a format: a function that fills an empty folder."""
