"""How layers are added to a model, are found there, leave their losses, and are removed again."""
