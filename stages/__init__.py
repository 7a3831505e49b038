"""What is needed to make a system: data, objectives and the training commands. Using one needs `unclip` only."""
