"""Errors, paths, progress, names and hashes: what every room stands on."""
