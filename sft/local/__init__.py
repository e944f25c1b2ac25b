"""The local Tinker service: a program of its own that imports nothing of the harness."""
