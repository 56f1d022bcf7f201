"""Bytes on disk, without their meaning: atomic writing, JSON, YAML, `.npy`, safetensors, the cache."""
