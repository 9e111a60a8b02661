"""The benchmark: ways to enlarge a picture, taking turns in one process (design/bench.md)."""
