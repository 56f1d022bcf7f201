"""Bytes on disk, and no meaning: atomic writing, JSON, YAML, `.npy`, safetensors, the cache."""
