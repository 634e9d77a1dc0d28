"""How a worker reaches its coordinator: one port, one module a way."""
