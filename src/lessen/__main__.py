"""`python -m lessen`: the same command line, for launchers that start modules."""

from lessen.cli import main

if __name__ == "__main__":
    main()
