"""Run the command line: ``python -m cas_cache``."""

from cas_cache.cli import main

if __name__ == "__main__":
    main()
