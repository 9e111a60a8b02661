"""An opened backend becomes pictures (`Renderer`): choice of engine, tuning, verification.

May import: `engine_store` and what stands below it.
"""

from hiif_deploy.rendering.renderer import Renderer as Renderer
