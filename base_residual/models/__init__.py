"""Encoders, decoders, the decomposition that they make, and checkpoints."""
