"""`python -m distjet` is the command `distjet`, with the Python and the folder that one chooses."""

from distjet.cli import main

if __name__ == "__main__":
    main()
