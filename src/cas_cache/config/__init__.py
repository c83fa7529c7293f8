"""Configuration: settings files and CAS_CACHE_* variables, locations, URLs and signing keys."""
