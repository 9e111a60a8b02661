"""The command `hiif-deploy`: its sub-commands, their options and reports.

May import: everything of the runtime; no other package imports it, but the commands of the other areas do.
"""

from hiif_deploy.cli.app import main as main
