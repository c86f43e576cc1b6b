"""What several exporters stand on."""
