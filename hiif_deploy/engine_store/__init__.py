"""Built engines on disk: who owns them, what each is of, whether it is whole, and which to remove.

May import: `backends` and what stands below it.
"""

from hiif_deploy.engine_store.store import EngineStore as EngineStore
