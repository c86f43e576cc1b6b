"""What can be asked for by name: models, texts and tasks that wheels carry, the toy, the ladder."""
