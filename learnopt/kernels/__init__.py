"""Fused steps of the learned rule, each tested against `learnopt.rule`; used where they can be built."""
