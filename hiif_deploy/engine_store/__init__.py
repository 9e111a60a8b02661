"""Built engines on disk: which exist, which are whole and fit this machine, and which to remove.

May import: `backends` and what stands below it.
"""

from hiif_deploy.engine_store.store import EngineStore as EngineStore
