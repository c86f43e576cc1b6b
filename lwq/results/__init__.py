"""Measurements on disk: one file each, and the tracked tables."""
