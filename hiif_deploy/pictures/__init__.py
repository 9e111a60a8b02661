"""Picture files and folders through an upscaler.

May import: `upscaler` and what stands below it.
"""
