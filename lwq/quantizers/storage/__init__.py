"""How a quantized matrix is stored: every part with its own width."""
