"""The proof that an exported file equals its checkpoint.

verify_stage.py   the stage: the same tokens, special tokens, chat template and numbers
divergence.py     how far two implementations of one model diverge
"""
