"""What scorers and quantizers need of each block, collected in one streamed pass."""
