"""The server of `hiif-deploy serve`: pictures that zoom without end (IIIF), upscaling as a service, and its page.

`app.py` puts the parts together; `studio.py` is the core that holds pictures, features and tiles. Starlette and what
else the extra `serve` installs are imported when an app is made: the light install has none of them.

May import: `upscaler`, `pictures` and what stands below them.
"""
