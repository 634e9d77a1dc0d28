"""`python -m reactorcide` is `reactorcide`."""

from reactorcide.cli import main

if __name__ == "__main__":
    main()
