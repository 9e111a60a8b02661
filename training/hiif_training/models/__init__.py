"""Encoders and decoders, one file each, and the table that names them."""
