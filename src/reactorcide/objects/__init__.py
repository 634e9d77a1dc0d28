"""Where logs and artifacts are kept: one port, one module a backend."""
