"""Programs for people: make the demo world, embed, reproduce all trainings, evaluate, benchmark, draw figures."""
