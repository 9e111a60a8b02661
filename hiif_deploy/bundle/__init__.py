"""What a bundle promises (`contract`), how its files are checked and opened (`loader`), and the models by name:
shipped, added (`added`, `add_model`) and known (`known`), with their cards and figures (`model_list`).

May import: `geometry` and what stands below it.
"""

from hiif_deploy.bundle.contract import Contract as Contract
from hiif_deploy.bundle.loader import Bundle as Bundle
from hiif_deploy.bundle.loader import open_bundle as open_bundle
from hiif_deploy.bundle.loader import shipped_models as shipped_models
