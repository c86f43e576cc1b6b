"""What other programs load, one file a format."""
