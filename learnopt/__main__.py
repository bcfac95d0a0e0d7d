"""`python -m learnopt`."""

from learnopt.cli import main

if __name__ == "__main__":
    main()
