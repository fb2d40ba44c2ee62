"""The steps of the wizard that makes and changes policies."""
