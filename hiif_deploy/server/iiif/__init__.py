"""The IIIF Image API 3.0: requests as they are written, the part of a picture that they name, and their routes.

May import: `server.studio`, `server.web` and what stands below them.
"""
