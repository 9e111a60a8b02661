"""Training and test pictures on disk, and MATLAB's bicubic.

May import: `hiif_deploy`.
"""
