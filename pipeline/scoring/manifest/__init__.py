"""Manifests: find a manifest's files, check them on the driver, and read their rows."""
