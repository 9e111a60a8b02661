"""The server on a Ray cluster: a light front on each node, and replicas that hold models, features and tiles.

May import: the rest of `server`, `cluster` and what stands below them. Ray is imported when an app is deployed.
"""
