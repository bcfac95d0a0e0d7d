"""Pretrained meta-weights that ship in the wheel."""
