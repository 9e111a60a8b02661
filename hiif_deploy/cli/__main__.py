"""`python -m hiif_deploy.cli`."""

from hiif_deploy.cli.app import main

main()
