"""How layers get into a model, are found there, leave their losses, and get out of it again."""
