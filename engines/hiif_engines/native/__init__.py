"""The engine `native`: machine code for this processor, compiled by LLVM when a bundle is opened.

May import: `hiif_deploy`.
"""
