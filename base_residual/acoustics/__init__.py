"""The emitted chirp, recordings of its echo, and the features that a network gets."""
