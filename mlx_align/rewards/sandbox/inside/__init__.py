"""What runs inside the sandbox, with nothing but Python's own library: no import leaves this folder."""
