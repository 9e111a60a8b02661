"""Upscales clips: frames by PyAV, segments in a journal that a killed run resumes, audio and metadata kept.

May import: `pictures` and what stands below it.
"""
