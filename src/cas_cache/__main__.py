"""``python -m cas_cache``: the command line."""

from cas_cache.cli import main

if __name__ == "__main__":
    main()
