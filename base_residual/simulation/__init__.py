"""Simulated rooms: what a robot in them sees and hears."""
