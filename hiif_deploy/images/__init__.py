"""Picture files: reading and writing them with their metadata, transparency, estimates of their JPEG quality and noise
(`degradation`), and what a caller may pass as a picture.

May import: `pixels`, `errors` and `support`.

Nothing is imported here: an upscaler of arrays needs no picture library (70 ms).
"""
