"""Upscales picture files and folders.

May import: `upscaler` and what stands below it.
"""
