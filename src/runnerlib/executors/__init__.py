"""What runs a job's command: one port, and the ways to do it on one host."""
