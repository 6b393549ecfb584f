"""``python -m rallypoint`` is the ``rallypoint`` command."""

from rallypoint.cli.main import main

if __name__ == "__main__":
    main()
