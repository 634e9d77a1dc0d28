# List what can be done here.
default:
    @just --list

# Run every check and test, as CI does. Arguments go to pytest.
test *args:
    scripts/test {{args}}

# Format the code and mend what the linter can.
format:
    .venv/bin/ruff format .
    .venv/bin/ruff check --fix .

# Check types and import rules only.
types:
    .venv/bin/mypy
    .venv/bin/lint-imports

# Resolve the dependencies anew and write both lock files.
lock:
    uv lock --upgrade
    uv export -q --format requirements.txt --no-emit-project --no-header --no-annotate --all-groups --all-extras -o requirements.lock
    uv export -q --format requirements.txt --no-emit-project --no-header --no-annotate --no-hashes --no-dev --all-extras -o constraints.txt

# Write the schema file that a test compares with what the migrations make.
schema:
    .venv/bin/python -m reactorcide.store.schema

# Run all measurements; each also runs alone.
bench:
    for file in bench/*.py; do .venv/bin/python "$file"; done
