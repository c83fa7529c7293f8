"""Local files: atomic writes, locks, and abilities of file systems. Mirrors and directory repositories use them."""
