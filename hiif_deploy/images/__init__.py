"""Picture files: reading and writing them with their metadata, transparency, and what a caller may pass as a picture.

May import: `pixels`, `errors` and `support`.
"""

from hiif_deploy.images.io import read_image as read_image
from hiif_deploy.images.io import write_image as write_image
