"""What llama.cpp calls things: settings of a model, and the vocabulary of its tokenizer."""
