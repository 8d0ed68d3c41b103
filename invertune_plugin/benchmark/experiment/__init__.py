"""One experiment: recipe, data, clean model, victim or a user's checkpoint, and what came out."""
