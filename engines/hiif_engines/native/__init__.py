"""HIIF's decoder as machine code for this processor: a block of queries goes through all levels in its caches."""
