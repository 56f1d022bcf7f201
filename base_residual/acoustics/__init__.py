"""The emitted chirp, recordings of its echo, and what a network gets of them."""
