"""What several quantizers stand on."""
