"""Released weights of others, in and out."""
