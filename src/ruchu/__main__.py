"""`python -m ruchu` is the command `ruchu`."""

from ruchu.cli.main import main

if __name__ == "__main__":
    main()
