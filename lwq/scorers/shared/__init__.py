"""What several scorers stand on."""
