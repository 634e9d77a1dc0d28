"""Where ready jobs are announced and found: one port, one module a backend."""
