"""Callbacks for other people's trainers, one module each; importing one needs the trainer's package.

`pip install '.[integrations]'` in a checkout installs them all.
"""
