"""Encoders: picture → features of the same height and width, one file each.

May import: `hiif_deploy`.
"""
