"""What the product does; the API and the worker's gateway call these and nothing below."""
